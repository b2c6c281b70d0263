// bfloat16 weights as integers of 13 bits and a sign at one power of two per output, for
// instruction sets that multiply 16-bit integers faster than they unpack bf16. Rows are integers
// too, in blocks of 32 inputs with one scale each: so many products fit a 32-bit sum, 32 * 8191 *
// 8191 < 2^31. A panel is [k / 2][16 pairs of inputs].
#pragma once
#include "formats/format.h"

namespace shoal {

struct Int16Block {
  static constexpr int kInputs = 32;  // of a block of a row
  static constexpr int kMax = 8191;   // of a row's integers

  static constexpr bool has_scale = true;
  static constexpr PackGroups pack_groups = nullptr;
  static constexpr std::size_t panel_bytes(int k) {
    return static_cast<std::size_t>((k + 1) / 2) * kPanel * 4;
  }
  // A row: its integers, padded to whole blocks, then one scale per block.
  static constexpr std::size_t row_bytes(int k) {
    return round_up(k, kInputs) * 2 + round_up(k, kInputs) / kInputs * sizeof(float);
  }
  static bool pack(const float* row, int k, char* panel, int lane, Channel& channel);
  static void unpack(const char* panel, int lane, const Channel& channel, int k, float* row);
};

}  // namespace shoal
