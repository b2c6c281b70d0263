// What the tiles read as rows. `bytes` of a prepared row of `padded` floats (a multiple of 16), and
// how it is made of them; prepare is null where the floats are read as they are. Called by model/
// through FormatKernels.
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
  static void prepare(const float* x, int padded, char* out) {
    to_bf16(x, padded, reinterpret_cast<std::uint16_t*>(out));
  }
  static SHOAL_INLINE void to_bf16(const float* x, int n, std::uint16_t* out) {
    for (int i = 0; i < n; ++i) out[i] = shoal::bf16_of(x[i]);
  }
};

// bf16 times a power of two: see Bf16Packed12.
struct ScaledBf16Row {
  static std::size_t bytes(int padded) { return sizeof(std::uint16_t) * padded; }
  static void prepare(const float* x, int padded, char* out) {
    to_scaled_bf16(x, padded, reinterpret_cast<std::uint16_t*>(out));
  }
  static void to_scaled_bf16(const float* x, int n, std::uint16_t* out) {
    for (int i = 0; i < n; ++i) out[i] = shoal::bf16_of(x[i] * 0x1p96f);
    static_assert(shoal::Bf16Packed12::kRowExponent == 96, "the factor");
  }
};

// Integers within +-127 in groups of 32, padded to whole groups; then of every group its scale, the
// sum of its numbers as integers say them, and -128 times the sum of its integers.
struct IntGroupRow {
  static constexpr int kInputs = shoal::kGroup;

  struct View {
    const std::int8_t* integers;
    const float *scales, *sums;
    const std::int32_t* offsets;
  };
  static constexpr int groups(int k) { return (k + kInputs - 1) / kInputs; }
  static View view(const char* row, int k) {
    const int n = groups(k);
    const float* scales = reinterpret_cast<const float*>(row + n * kInputs);
    return {reinterpret_cast<const std::int8_t*>(row), scales, scales + n,
            reinterpret_cast<const std::int32_t*>(scales + 2 * n)};
  }

  static std::size_t bytes(int padded) {
    return static_cast<std::size_t>(groups(padded)) * (kInputs + 3 * sizeof(float));
  }
  static void prepare(const float* x, int padded, char* out) {
    const int whole = padded / kInputs, n = groups(padded);
    std::int8_t* integers = reinterpret_cast<std::int8_t*>(out);
    float* scales = reinterpret_cast<float*>(out + n * kInputs);
    std::int32_t* offsets = reinterpret_cast<std::int32_t*>(scales + 2 * n);
    for (int g = 0; g < whole; ++g)
      prepare_group(x + g * kInputs, integers + g * kInputs, scales[g], scales[n + g], offsets[g]);
    if (n == whole) return;
    alignas(64) float last[kInputs] = {};
    __builtin_memcpy(last, x + whole * kInputs, sizeof(float) * kPanel);
    prepare_group(last, integers + whole * kInputs, scales[whole], scales[n + whole],
                  offsets[whole]);
  }

 private:
  static SHOAL_INLINE void prepare_group(const float* x, std::int8_t* out, float& scale,
                                         float& sum, std::int32_t& offset) {
    std::uint32_t bits = 0;  // without their sign, bits order like the numbers, NaN above all
    for (int i = 0; i < kInputs; ++i) {
      const std::uint32_t magnitude = shoal::bits_of(x[i]) & 0x7fffffffu;
      bits = bits > magnitude ? bits : magnitude;
    }
    const float largest = shoal::float_of(bits);
    const bool finite = bits < 0x7f800000u;
    const float inverse = finite && largest >= 1e-30f ? 127.0f / largest : 0.0f;
    std::int32_t integers = 0;
    for (int i = 0; i < kInputs; ++i) {  // adding 1.5 * 2^23 leaves the integer in the low bits
      const std::int32_t integer =
          static_cast<std::int32_t>(shoal::bits_of(x[i] * inverse + 12582912.0f)) - 0x4b400000;
      out[i] = static_cast<std::int8_t>(integer);
      integers += integer;
    }
    scale = finite ? largest * (1.0f / 127.0f) : NAN;
    sum = scale * static_cast<float>(integers);
    offset = -128 * integers;
  }
};

// Integers, padded to whole blocks, then a scale per block.
struct Int16BlockRow {
  static constexpr int kInputs = shoal::Int16Block::kInputs;

  static std::size_t bytes(int padded) { return shoal::Int16Block::row_bytes(padded); }
  static void prepare(const float* x, int padded, char* out) {
    const int whole = padded / kInputs, blocks = shoal::round_up(padded, kInputs) / kInputs;
    std::int16_t* integers = reinterpret_cast<std::int16_t*>(out);
    float* scales = reinterpret_cast<float*>(integers + blocks * kInputs);
    for (int b = 0; b < whole; ++b)
      scales[b] = prepare_block(x + b * kInputs, integers + b * kInputs);
    if (blocks == whole) return;
    alignas(64) float last[kInputs] = {};
    __builtin_memcpy(last, x + whole * kInputs, sizeof(float) * kPanel);
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
