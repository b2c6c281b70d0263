// Conversions of single numbers and rows. Every function is local to the file that includes this:
// the same source is compiled for several instruction sets, and the linker must not mix them.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace shoal {
namespace {

inline std::uint32_t bits_of(float x) {
  std::uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}

inline float float_of(std::uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

inline std::uint16_t bf16_of(float x) {  // to nearest, ties to even; NaN stays NaN
  const std::uint32_t u = bits_of(x);
  const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

inline float float_of_bf16(std::uint16_t h) {
  return float_of(static_cast<std::uint32_t>(h) << 16);
}

// n floats to integers within +-127 of one scale, which is returned: NaN where a float is not
// finite.
inline float quantize_int8(const float* x, int n, std::int8_t* out) {
  std::uint32_t bits = 0;  // without their sign, bits order like the numbers, NaN above all
  for (int i = 0; i < n; ++i) {
    const std::uint32_t a = bits_of(x[i]) & 0x7fffffffu;
    bits = bits > a ? bits : a;
  }
  const float largest = float_of(bits);
  const bool finite = bits < 0x7f800000u;
  const float inverse = finite && largest >= 1e-30f ? 127.0f / largest : 0.0f;
  for (int i = 0; i < n; ++i)  // adding 1.5 * 2^23 leaves the rounded number in the low bits
    out[i] = static_cast<std::int8_t>(bits_of(x[i] * inverse + 12582912.0f));
  return finite ? largest / 127.0f : NAN;
}

// k 16-bit numbers into a lane of a panel that holds two neighbouring inputs in 32 bits.
template <typename Half>
inline void store_pairs(const Half* row, int k, char* panel, int lane) {
  char* at = panel + lane * 4;
  int i = 0;
  for (; i + 1 < k; i += 2) std::memcpy(at + i / 2 * 64, row + i, 4);
  if (i < k) std::memcpy(at + i / 2 * 64, row + i, 2);
}

}  // namespace
}  // namespace shoal
