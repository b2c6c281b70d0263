// int16_block weights times rows of the same kind. A block's integer sum is exact; blocks are added
// as floats, in order. Rows keep 13 bits of the largest in their block: what is rounded away is
// less than bf16 rows lose, unless one of 32 inputs is hundreds of times all others.
#pragma once
#include "formats/int16_block.h"
#include "linear/accumulators.h"
#include "linear/rows.h"

namespace {

template <>
struct Tile<shoal::Int16Block> {
  using Row = Int16BlockRow;
  static constexpr bool exists = true;
  static constexpr int part_inputs = 512;
  static constexpr int max_rows = Vec::max_rows_int16;
  static constexpr int max_rows_of(int) { return max_rows; }
  static constexpr int panels_for(int rows) { return Vec::panels_for_int16(rows); }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part& part, int m0, int p) {
    constexpr int kInputs = shoal::Int16Block::kInputs;
    const std::size_t stride = shoal::Int16Block::panel_bytes(a.k);
    const char* x[MR];
    const float* scales[MR];
    const char* panels[NP];
    for (int m = 0; m < MR; ++m) {
      x[m] = static_cast<const char*>(a.x) + (m0 + m) * a.x_stride;
      scales[m] = reinterpret_cast<const float*>(x[m] + 2 * shoal::round_up(a.k, kInputs));
    }
    for (int i = 0; i < NP; ++i) panels[i] = a.panels + (p + i) * stride;
    Accumulators<MR, NP> sums;
    resume(sums, part, m0);
    // Float sums live in memory while the integers of a block need the registers.
    in_memory(sums);
    const Prefetcher<MR, NP> prefetcher(m0, stride);
    for (int k = part.k0; k < part.k1; k += kInputs) {
      typename Vec::I acc[MR][NP * kVecs];
#pragma GCC unroll 12
      for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
        for (int j = 0; j < NP * kVecs; ++j) acc[m][j] = Vec::no_sum();
      const int end = k + kInputs < part.k1 ? k + kInputs : part.k1;
      for (int pair = k / 2; pair < (end + 1) / 2; ++pair) {
        if (prefetcher.active)
#pragma GCC unroll 4
          for (int i = 0; i < NP; ++i)
            prefetcher.prefetch(panels[i] + static_cast<std::ptrdiff_t>(pair) * kPanel * 4,
                      pair * kPanel * 4);
        typename Vec::I w[NP * kVecs];
#pragma GCC unroll 16
        for (int j = 0; j < NP * kVecs; ++j)
          w[j] = Vec::load_word(panels[j / kVecs] + static_cast<std::size_t>(pair) * kPanel * 4 +
                                j % kVecs * Vec::width * 4);
#pragma GCC unroll 12
        for (int m = 0; m < MR; ++m) {
          const typename Vec::I xm = Vec::broadcast_word(x[m] + 4 * pair);
#pragma GCC unroll 16
          for (int j = 0; j < NP * kVecs; ++j) acc[m][j] = Vec::dot_int16(acc[m][j], w[j], xm);
        }
      }
#pragma GCC unroll 12
      for (int m = 0; m < MR; ++m) {
        const typename Vec::F scale = Vec::set(scales[m][k / kInputs]);
#pragma GCC unroll 16
        for (int j = 0; j < NP * kVecs; ++j)
          sums.at[m][j] = Vec::fma(Vec::to_float(acc[m][j]), scale, sums.at[m][j]);
      }
      in_memory(sums);
    }
    if (part.k1 == a.k) scale_channels(sums, a.w_scale + p * kPanel);
    finish(sums, a, part, m0, p);
  }
};

}  // namespace
