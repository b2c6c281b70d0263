// float32 and bfloat16 weights as they are. A panel is [k][16 floats], or [k / 2][16 pairs of
// inputs].
#pragma once
#include "formats/format.h"

namespace shoal {

struct F32 {
  static constexpr bool has_scale = false;
  static constexpr PackGroups pack_groups = nullptr;
  static constexpr std::size_t panel_bytes(int k) {
    return static_cast<std::size_t>(k) * kPanel * 4;
  }
  static bool pack(const float* row, int k, char* panel, int lane, Channel& channel);
  static void unpack(const char* panel, int lane, const Channel& channel, int k, float* row);
};

struct Bf16 {
  static constexpr bool has_scale = false;
  static constexpr PackGroups pack_groups = nullptr;
  static constexpr std::size_t panel_bytes(int k) {
    return static_cast<std::size_t>((k + 1) / 2) * kPanel * 4;
  }
  static bool pack(const float* row, int k, char* panel, int lane, Channel& channel);
  static void unpack(const char* panel, int lane, const Channel& channel, int k, float* row);
};

}  // namespace shoal
