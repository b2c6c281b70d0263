// bfloat16 weights in 12 bits, for machines whose memory is slower than unpacking: a sign, 7 bits
// of mantissa, and of the exponent the last 15 values up to the largest of the output; what is
// smaller becomes zero. Products and sums are those of the bf16 weights at another power of two,
// which the output's scale takes back.
//
// A panel is a row of groups of 8 inputs. A group is 64 bytes of exponents, the 4 bits of four
// pairs of inputs in each 16-bit lane, then 32 bytes of sign and mantissa for each pair.
#pragma once
#include "formats/format.h"

namespace shoal {

struct Bf16Packed12 {
  static constexpr int kGroupInputs = 8, kGroupBytes = 192;
  // What is left of an exponent is too small for bf16 sums, so rows are multiplied by 2 to this
  // power.
  static constexpr int kRowExponent = 96;

  static constexpr bool has_scale = true;
  static constexpr PackGroups pack_groups = nullptr;
  static constexpr std::size_t panel_bytes(int k) {
    return static_cast<std::size_t>((k + kGroupInputs - 1) / kGroupInputs) * kGroupBytes;
  }
  static bool pack(const float* row, int k, char* panel, int lane, Channel& channel);
  static void unpack(const char* panel, int lane, const Channel& channel, int k, float* row);
};

}  // namespace shoal
