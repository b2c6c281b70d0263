// int8 weights times int8 rows: the integer sums are exact, so only the scaling rounds.
#pragma once
#include "formats/int8.h"
#include "linear/accumulators.h"
#include "linear/rows.h"

namespace {

template <>
struct Tile<shoal::Int8> {
  using Row = Int8Row;
  static constexpr bool exists = true;
  static constexpr int part_inputs = 0;  // all at once: a part's sums would be integers
  static constexpr int max_rows = Vec::max_rows_int8;
  static constexpr int max_rows_of(int) { return max_rows; }
  static constexpr int panels_for(int rows) { return Vec::panels_for_int8(rows); }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part&, int m0, int p) {
    const std::size_t stride = shoal::Int8::panel_bytes(a.k);
    const std::int8_t* x[MR];
    const char* panels[NP];
    typename Vec::I acc[MR][NP * kVecs];
    for (int m = 0; m < MR; ++m)
      x[m] = static_cast<const std::int8_t*>(a.x) + (m0 + m) * a.x_stride;
    for (int i = 0; i < NP; ++i) panels[i] = a.panels + (p + i) * stride;
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j)
        acc[m][j] = Vec::dot_init(a.w_sum + p * kPanel + j * Vec::width);
    const Prefetcher<MR, NP> prefetcher(m0, stride);
    for (int k = 0; k < (a.k + 3) / 4; ++k) {
      if (MR > 1 && prefetcher.active)  // one row has no time for it
#pragma GCC unroll 4
        for (int i = 0; i < NP; ++i)
          prefetcher.prefetch(panels[i] + static_cast<std::ptrdiff_t>(k) * kPanel * 4,
                              k * kPanel * 4);
      typename Vec::I w[NP * kVecs];
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j)
        w[j] = Vec::load_word(panels[j / kVecs] + static_cast<std::size_t>(k) * kPanel * 4 +
                              j % kVecs * Vec::width * 4);
#pragma GCC unroll 12
      for (int m = 0; m < MR; ++m) {
        const typename Vec::Quad xm = Vec::quad(x[m] + 4 * k);
#pragma GCC unroll 16
        for (int j = 0; j < NP * kVecs; ++j) acc[m][j] = Vec::dot(acc[m][j], w[j], xm);
      }
    }
    Accumulators<MR, NP> sums;
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j)
        sums.at[m][j] =
            Vec::mul(Vec::mul(Vec::to_float(acc[m][j]), Vec::set(a.x_scale[m0 + m])),
                     Vec::load(a.w_scale + p * kPanel + j * Vec::width));
    store_tile(sums, a, m0, p);
  }
};

}  // namespace
