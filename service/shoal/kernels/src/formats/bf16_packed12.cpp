// Packing of bf16_packed12: a row of k weights into one lane of a panel and back.
#include "formats/bf16_packed12.h"

#include <algorithm>
#include <vector>

#include "formats/numbers.h"

namespace shoal {

// False where more would be lost than 2^-11 of the weights (root mean square).
bool Bf16Packed12::pack(const float* row, int k, char* panel, int lane, Channel& channel) {
  std::vector<std::uint16_t> half(k);
  int largest = 0;
  for (int i = 0; i < k; ++i) {
    half[i] = bf16_of(row[i]);
    largest = std::max(largest, half[i] >> 7 & 255);
  }
  if (largest > 200) return false;  // 2^73 and more, or not finite: no scale for it
  const int lowest = largest - 15;
  channel.scale = std::ldexp(1.0f, lowest - kRowExponent);
  float lost = 0.0f, energy = 0.0f;
  for (std::uint16_t& h : half) {
    const int exponent = h >> 7 & 255;
    const bool kept = exponent > std::max(lowest, 0);
    const float value = float_of_bf16(h);
    (kept ? energy : lost) += value * value;
    h = kept ? (h & 0x807f) | (exponent - lowest) << 7 : 0;
  }
  if (!(lost <= energy * 0x1p-22f)) return false;
  for (int first = 0; first < k; first += kGroupInputs, panel += kGroupBytes)
    for (int odd = 0; odd < 2; ++odd) {
      const int at = lane * 2 + odd;
      std::uint16_t exponents = 0;
      for (int pair = 0; pair < kGroupInputs / 2; ++pair) {
        const int i = first + 2 * pair + odd;
        const std::uint16_t bits = i < k ? half[i] : 0;
        exponents |= (bits >> 7 & 15) << (4 * pair);
        panel[64 + 32 * pair + at] = static_cast<char>((bits >> 8 & 0x80) | (bits & 0x7f));
      }
      std::memcpy(panel + at * 2, &exponents, 2);
    }
  return true;
}

// The other way, times a power of two that takes the exponents to where floats have them.
void Bf16Packed12::unpack(const char* panel, int lane, const Channel& channel, int k, float* row) {
  for (int first = 0; first < k; first += kGroupInputs, panel += kGroupBytes)
    for (int odd = 0; odd < 2; ++odd) {
      const int at = lane * 2 + odd;
      std::uint16_t exponents;
      std::memcpy(&exponents, panel + at * 2, 2);
      for (int pair = 0; pair < kGroupInputs / 2; ++pair) {
        const int i = first + 2 * pair + odd;
        if (i >= k) break;
        const std::uint32_t low = static_cast<unsigned char>(panel[64 + 32 * pair + at]);
        const std::uint32_t exponent = exponents >> (4 * pair) & 15;
        const std::uint32_t bits =
            low >> 7 << 31 | (exponent + kRowExponent) << 23 | (low & 127) << 16;
        row[i] = exponent == 0 ? 0.0f : float_of(bits) * channel.scale;
      }
    }
}

}  // namespace shoal
