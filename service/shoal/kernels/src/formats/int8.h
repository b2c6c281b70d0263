// Weights as integers within +-127, with one scale per output: weight = scale * integer. A panel is
// [k / 4][16 groups of four inputs].
#pragma once
#include "formats/format.h"

namespace shoal {

struct Int8 {
  static constexpr bool has_scale = true, has_sum = true;
  static constexpr std::size_t panel_bytes(int k) {
    return static_cast<std::size_t>((k + 3) / 4) * kPanel * 4;
  }
  static bool pack(const float* row, int k, char* panel, int lane, Channel& channel);
  static void unpack(const char* panel, int lane, const Channel& channel, int k, float* row);
};

}  // namespace shoal
