// Builds the kernel table of the instruction set whose Vec was included before this. Included once
// per kernels_*.cpp; everything it includes has internal linkage, so no code of one set serves
// another.
#pragma once
#include "attention/attend.h"
#include "formats/all.h"
#include "isa/kernels.h"
#include "linear/float_tiles.h"
#include "linear/int16_block_tiles.h"
#include "linear/int_group_tiles.h"
#include "linear/tiles.h"
#include "rowwise/norms.h"
#include "rowwise/sampling.h"
#if defined(SHOAL_BF16)
#include "linear/bf16_tiles.h"
#endif

namespace {

template <class Traits>
constexpr shoal::FormatKernels format_kernels() {
  using TileOf = Tile<Traits>;
  if constexpr (TileOf::exists)
    return {linear<TileOf>, TileOf::Row::bytes, TileOf::Row::prepare};
  else
    return {nullptr, nullptr, nullptr};
}

inline shoal::Kernels make_kernels(const char* name) {
  return {name,
          Vec::bf16_weights,
          {
#define SHOAL_FORMAT_KERNELS(id, Traits) format_kernels<shoal::Traits>(),
              SHOAL_FORMATS(SHOAL_FORMAT_KERNELS)
#undef SHOAL_FORMAT_KERNELS
          },
          {attend<FloatPanel>, attend<Bf16Panel>, attend<Int8Panel>},
          {store_kv<FloatPanel>, store_kv<Bf16Panel>, store_kv<Int8Panel>},
          {rms_norm, layer_norm},
          rotate,
          clip,
          gated,
          activate,
          add,
          scale,
          soft_cap,
          max_of,
          sum_exp,
          exp_shifted,
          sum_above,
          span_max};
}

}  // namespace
