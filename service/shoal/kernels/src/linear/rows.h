// What the tiles read as rows. `bytes` of a prepared row of `padded` floats (a multiple of 16), and
// how it is made of `width` floats; behind them, up to `padded`, may be anything but NaN. prepare
// is null where the floats are read as they are. Called by model/ through FormatKernels.
#pragma once
#include "formats/bf16_packed12.h"
#include "formats/int16_block.h"
#include "formats/int_groups.h"
#include "formats/numbers.h"
#include "linear/accumulators.h"

namespace {

struct FloatRow {
  static constexpr void (*prepare)(const float*, int, char*) = nullptr;
  static std::size_t bytes(int padded) { return sizeof(float) * padded; }
};

struct Bf16Row {
  static std::size_t bytes(int padded) { return sizeof(std::uint16_t) * padded; }
  static void prepare(const float* x, int width, char* out) {
    to_bf16(x, shoal::round_up(width, kPanel), reinterpret_cast<std::uint16_t*>(out));
  }
  static SHOAL_INLINE void to_bf16(const float* x, int n, std::uint16_t* out) {
    for (int i = 0; i < n; ++i) out[i] = shoal::bf16_of(x[i]);
  }
};

// bf16 times a power of two: see Bf16Packed12.
struct ScaledBf16Row {
  static std::size_t bytes(int padded) { return sizeof(std::uint16_t) * padded; }
  static void prepare(const float* x, int width, char* out) {
    to_scaled_bf16(x, shoal::round_up(width, kPanel), reinterpret_cast<std::uint16_t*>(out));
  }
  static void to_scaled_bf16(const float* x, int n, std::uint16_t* out) {
    for (int i = 0; i < n; ++i) out[i] = shoal::bf16_of(x[i] * 0x1p96f);
    static_assert(shoal::Bf16Packed12::kRowExponent == 96, "the factor");
  }
};

// Integers within +-127 in groups of 32, padded with zeros to whole groups.
struct IntGroupRow {
  static constexpr int kInputs = shoal::kGroup;

  struct Group {
    std::int8_t integers[kInputs];
    float scale, sum;     // sum: of the group's numbers, as its integers say them
    std::int32_t offset;  // -128 times the sum of the integers
    std::int32_t unused;  // a multiple of 16 bytes
  };

  static constexpr int groups(int k) { return (k + kInputs - 1) / kInputs; }
  static std::size_t bytes(int padded) { return groups(padded) * sizeof(Group); }
  static void prepare(const float* x, int width, char* out) {
    Group* group = reinterpret_cast<Group*>(out);
    int k = 0;
    for (; k + kInputs <= width; k += kInputs) prepare_group(x + k, *group++);
    if (k == width) return;
    alignas(64) float last[kInputs] = {};
    __builtin_memcpy(last, x + k, sizeof(float) * (width - k));
    prepare_group(last, *group);
  }

 private:
  static SHOAL_INLINE void prepare_group(const float* x, Group& out) {
    std::uint32_t bits = 0;  // without their sign, bits order like the numbers, NaN above all
    for (int i = 0; i < kInputs; ++i) {
      const std::uint32_t magnitude = shoal::bits_of(x[i]) & 0x7fffffffu;
      bits = bits > magnitude ? bits : magnitude;
    }
    const float largest = shoal::float_of(bits);
    const bool finite = bits < 0x7f800000u;
    const float inverse = finite && largest >= 1e-30f ? 127.0f / largest : 0.0f;
    std::int32_t integers[kInputs], total = 0;
    for (int i = 0; i < kInputs; ++i) {  // adding 1.5 * 2^23 leaves the integer in the low bits
      const std::uint32_t low_bits = shoal::bits_of(x[i] * inverse + 12582912.0f);
      integers[i] = static_cast<std::int32_t>(low_bits - 0x4b400000u);
      total += integers[i];
    }
    for (int i = 0; i < kInputs; ++i) out.integers[i] = static_cast<std::int8_t>(integers[i]);
    out.scale = finite ? largest * (1.0f / 127.0f) : NAN;
    out.sum = out.scale * static_cast<float>(total);
    out.offset = -128 * total;
  }
};

// Integers, padded to whole blocks, then a scale per block.
struct Int16BlockRow {
  static constexpr int kInputs = shoal::Int16Block::kInputs;

  static std::size_t bytes(int padded) { return shoal::Int16Block::row_bytes(padded); }
  static void prepare(const float* x, int width, char* out) {
    const int whole = width / kInputs, blocks = shoal::round_up(width, kInputs) / kInputs;
    std::int16_t* integers = reinterpret_cast<std::int16_t*>(out);
    float* scales = reinterpret_cast<float*>(integers + blocks * kInputs);
    for (int b = 0; b < whole; ++b)
      scales[b] = prepare_block(x + b * kInputs, integers + b * kInputs);
    if (blocks == whole) return;
    alignas(64) float last[kInputs] = {};
    __builtin_memcpy(last, x + whole * kInputs, sizeof(float) * (width - whole * kInputs));
    scales[whole] = prepare_block(last, integers + whole * kInputs);
  }

 private:
  static SHOAL_INLINE float prepare_block(const float* x, std::int16_t* out) {
    std::uint32_t bits = 0;
    for (int i = 0; i < kInputs; ++i) {
      const std::uint32_t magnitude = shoal::bits_of(x[i]) & 0x7fffffffu;
      bits = bits > magnitude ? bits : magnitude;
    }
    const float largest = shoal::float_of(bits);
    const bool finite = bits < 0x7f800000u;
    const float inverse =
        finite && largest >= 1e-30f ? shoal::Int16Block::kMax / largest : 0.0f;
    for (int i = 0; i < kInputs; ++i)  // adding 1.5 * 2^23 leaves the integer in the low bits
      out[i] = static_cast<std::int16_t>(shoal::bits_of(x[i] * inverse + 12582912.0f));
    return finite ? largest * (1.0f / shoal::Int16Block::kMax) : NAN;
  }
};

}  // namespace
