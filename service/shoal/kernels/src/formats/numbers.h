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

// Exact, subnormal numbers included.
inline float float_of_f16(std::uint16_t h) {
  const std::uint32_t magnitude = h & 0x7fffu;
  float value = float_of(magnitude << 13) * 0x1p112f;
  if (magnitude >= 0x7c00u) value = magnitude > 0x7c00u ? NAN : INFINITY;
  return h & 0x8000u ? -value : value;
}

inline std::uint16_t f16_of(float x) {  // to nearest, ties to even; NaN stays NaN
  const std::uint32_t u = bits_of(x), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u)
    half = 0x7e00u;
  else if (magnitude >= bits_of(65520.0f))
    half = 0x7c00u;
  else if (magnitude < bits_of(0x1p-14f))  // subnormal: 0.5 has their unit in its last place
    half = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  else
    half = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
  return static_cast<std::uint16_t>(sign | half);
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
