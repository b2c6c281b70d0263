// The formats weights are kept in, and what each of them tells the library about itself.
//
// Weights of one linear layer, [n outputs, k inputs], are stored in panels of 16 outputs. A format
// is three things: a traits struct in a header of this folder, a `Tile` for it in linear/ (how a
// panel is multiplied, which rows it reads), and its line in the registry below. Called by
// linear/packed_matrix.cpp (packing) and by the tiles (panel sizes).
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sizes.h"

namespace shoal {

// The registry: X(name, traits struct).
#define SHOAL_FORMATS(X)         \
  X(f32, F32)                    \
  X(bf16, Bf16)                  \
  X(int4, Int4)                  \
  X(int8, Int8)                  \
  X(int8_min, Int8Min)           \
  X(int16_block, Int16Block)     \
  X(bf16_packed12, Bf16Packed12)

enum class Format : int {
#define SHOAL_FORMAT_ID(name, Traits) name,
  SHOAL_FORMATS(SHOAL_FORMAT_ID)
#undef SHOAL_FORMAT_ID
};

#define SHOAL_FORMAT_COUNT(name, Traits) +1
constexpr int kNumFormats = 0 SHOAL_FORMATS(SHOAL_FORMAT_COUNT);
#undef SHOAL_FORMAT_COUNT

// What an output channel keeps beside its lane of a panel.
struct Channel {
  float scale = 1.0f;  // of its sums, or of its integers
};

// A row of weights as integers in groups of 32: weight = scale * integer + min.
struct GroupedRow {
  std::vector<std::int8_t> integers;  // [k]
  std::vector<float> scale, min;      // [groups]
};

using PackGroups = bool (*)(const GroupedRow& row, int k, char* panel, int lane);

// A traits struct at run time.
struct FormatTraits {
  bool has_scale;  // does a channel keep one?
  std::size_t (*panel_bytes)(int k);
  // Writes the k weights of one output into its lane (0..15) of a panel of zeros. False: the format
  // does not suit them.
  bool (*pack)(const float* row, int k, char* panel, int lane, Channel& channel);
  void (*unpack)(const char* panel, int lane, const Channel& channel, int k, float* row);
  // Writes integers as they are, scales and mins rounded to float16 (to 2^-11 of themselves, exact
  // where they were float16). False: the format cannot hold them. Null where it has no groups.
  PackGroups pack_groups;
};

const FormatTraits& traits_of(Format format);

}  // namespace shoal
