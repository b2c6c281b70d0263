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

// Integers within +-127 in groups of 32, padded with zeros to whole groups. A group's scale is itself
// an integer, up to 2^14, times the row's `unit`, which stands behind the groups: so a tile may
// multiply by it before or after its sums become floats, with the same result.
struct IntGroupRow {
  static constexpr int kInputs = shoal::kGroup;
  static constexpr int kMaxScale = 1 << 14;

  struct Group {
    std::int8_t integers[kInputs];
    float scale, sum;    // sum: of the integers, times the scale
    std::int32_t start;  // where sums of products with 8-bit weights begin, if Vec wants a start
    std::int32_t end;    // what Vec's end_int4 and end_int8 want beside the scale
  };

  static constexpr int groups(int k) { return (k + kInputs - 1) / kInputs; }
  static std::size_t bytes(int padded) {  // a multiple of 16
    return groups(padded) * sizeof(Group) + 16;
  }
  static float unit(const Group* row, int k) {
    return *reinterpret_cast<const float*>(row + groups(k));
  }
  static void prepare(const float* x, int width, char* out) {
    Group* group = reinterpret_cast<Group*>(out);
    const int whole = width / kInputs;
    alignas(64) float last[kInputs] = {};
    __builtin_memcpy(last, x + whole * kInputs, sizeof(float) * (width - whole * kInputs));
    std::uint32_t bits = 0;
    for (int g = 0; g < whole; ++g) bits = larger(bits, largest_of(x + g * kInputs, group[g]));
    if (whole < groups(width)) bits = larger(bits, largest_of(last, group[whole]));
    const float largest = shoal::float_of(bits);
    const bool finite = bits < 0x7f800000u;
    const float inverse = finite && largest >= 1e-30f ? kMaxScale / largest : 0.0f;
    for (int g = 0; g < whole; ++g) prepare_group(x + g * kInputs, inverse, group[g]);
    if (whole < groups(width)) prepare_group(last, inverse, group[whole]);
    *reinterpret_cast<float*>(group + groups(width)) =
        finite ? largest * (1.0f / (127 * kMaxScale)) : NAN;
  }

 private:
  static std::uint32_t larger(std::uint32_t a, std::uint32_t b) { return a > b ? a : b; }
  // Without their sign, bits order like the numbers, NaN above all.
  static SHOAL_INLINE std::uint32_t largest_of(const float* x, Group& group) {
    std::uint32_t bits = 0;
    for (int i = 0; i < kInputs; ++i) bits = larger(bits, shoal::bits_of(x[i]) & 0x7fffffffu);
    group.scale = shoal::float_of(bits);
    return bits;
  }
  // `inverse`: of the row's largest, times kMaxScale; 0 where the row becomes zeros.
  static SHOAL_INLINE void prepare_group(const float* x, float inverse, Group& out) {
    const float share = inverse > 0.0f ? out.scale * inverse : 0.0f;
    std::int32_t scale = static_cast<std::int32_t>(share);
    scale += static_cast<float>(scale) < share;  // rounded up
    scale = scale < kMaxScale ? scale : kMaxScale;
    const float per_unit = scale > 0 ? 127.0f * inverse / static_cast<float>(scale) : 0.0f;
    std::int32_t integers[kInputs], total = 0;
    for (int i = 0; i < kInputs; ++i) {  // adding 1.5 * 2^23 leaves the integer in the low bits
      const std::uint32_t low_bits = shoal::bits_of(x[i] * per_unit + 12582912.0f);
      integers[i] = static_cast<std::int32_t>(low_bits - 0x4b400000u);
      total += integers[i];
    }
    for (int i = 0; i < kInputs; ++i) out.integers[i] = static_cast<std::int8_t>(integers[i]);
    out.scale = static_cast<float>(scale);
    out.sum = out.scale * static_cast<float>(total);
    out.start = Vec::int8_start(total);
    out.end = Vec::group_end(scale);
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
