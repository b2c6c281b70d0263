// One number to sort tokens by: better first, of equal values the lower id. Used in sampling/ only.
#pragma once
#include <cstdint>
#include <cstring>

namespace shoal {

// Values are not above 0: the larger the bits without their sign, the smaller the value.
inline std::uint64_t key_of(float value, int id) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<std::uint64_t>(bits & 0x7fffffffu) << 32 | static_cast<std::uint32_t>(id);
}

inline float value_of(std::uint64_t key) {
  const std::uint32_t bits = static_cast<std::uint32_t>(key >> 32);
  float size;
  std::memcpy(&size, &bits, 4);
  return -size;
}

inline int id_of(std::uint64_t key) { return static_cast<int>(key & 0xffffffffu); }

// The least value whose exp is not below min_p <= 1.
float least_kept(double min_p);

}  // namespace shoal
