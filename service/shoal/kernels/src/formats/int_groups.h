// Weights as integers of 4 or 8 bits in groups of 32 inputs: weight = scale * integer + min, scale
// and min of each group in float16.
//   int4      0..15, with a min    20 bytes per group: holds Q4_0 and Q4_1 blocks exactly
//   int8      -128..127            34 bytes: Q8_0 and Q5_0
//   int8_min  the same with a min  36 bytes: Q5_1, and matrices of several kinds of blocks
// A panel is a row of groups. A group is 16 scales, 16 mins where there are any, then its integers:
// four neighbouring inputs of 16 outputs in 64 bytes. With 4 bits a byte has an input in its low
// half and the one four further in its high half.
//
// Rows are integers within +-127 in groups of 32 too (linear/rows.h), so a group's products are
// summed exactly, and in whatever order is fast.
#pragma once
#include "formats/format.h"

namespace shoal {

constexpr int kGroup = 32;  // inputs of a group

template <int Bits, bool HasMin>
struct IntGroups {
  static constexpr int bits = Bits;
  static constexpr bool has_min = HasMin, has_scale = false;
  static constexpr int kMinsAt = kPanel * 2;  // bytes of a group before its mins
  static constexpr int kIntegersAt = HasMin ? 2 * kMinsAt : kMinsAt;
  static constexpr int kGroupBytes = kIntegersAt + kPanel * kGroup * Bits / 8;

  static constexpr std::size_t panel_bytes(int k) {
    return static_cast<std::size_t>((k + kGroup - 1) / kGroup) * kGroupBytes;
  }
  // Rounds to nearest: 8 bits with the largest at 127, 4 bits between the least and the largest,
  // moved to where squares of errors are least. False for weights that float16 scales cannot hold.
  static bool pack(const float* row, int k, char* panel, int lane, Channel& channel);
  static bool pack_groups(const GroupedRow& row, int k, char* panel, int lane);
  static void unpack(const char* panel, int lane, const Channel& channel, int k, float* row);
};

using Int4 = IntGroups<4, true>;
using Int8 = IntGroups<8, false>;
using Int8Min = IntGroups<8, true>;

}  // namespace shoal
