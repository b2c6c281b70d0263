// float32 weights, and bf16 weights that become floats on the way, times float rows.
#pragma once
#include "formats/plain.h"
#include "linear/panels.h"
#include "linear/rows.h"

namespace {

template <class Traits, class Panel>
struct FloatTile {
  using Row = FloatRow;
  static constexpr bool exists = true;
  static constexpr bool kIsBf16 = __is_same(Traits, shoal::Bf16);
  static constexpr int part_inputs = 256;
  static constexpr int max_rows = kIsBf16 ? Vec::max_rows_bf16 : Vec::max_rows;
  static constexpr int max_rows_of(int) { return max_rows; }
  static constexpr int panels_for(int rows) {
    return kIsBf16 ? Vec::panels_for_bf16(rows) : Vec::panels_for(rows);
  }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part& part, int m0, int p) {
    const std::size_t stride = Traits::panel_bytes(a.k);
    const float* x[MR];
    const char* panels[NP];
    for (int m = 0; m < MR; ++m)
      x[m] = reinterpret_cast<const float*>(static_cast<const char*>(a.x) +
                                            (m0 + m) * a.x_stride) + part.k0;
    for (int i = 0; i < NP; ++i)
      panels[i] = a.panels + (p + i) * stride + part.k0 * kPanel * (kIsBf16 ? 2 : 4);
    Accumulators<MR, NP> sums;
    resume(sums, part, m0);
    Panel::template steps<MR, NP>(sums, x, panels, part.k1 - part.k0);
    finish(sums, a, part, m0, p);
  }
};

template <>
struct Tile<shoal::F32> : FloatTile<shoal::F32, FloatPanel> {};

#if !defined(SHOAL_BF16)  // which multiplies bf16 rows: bf16_tiles.h
template <>
struct Tile<shoal::Bf16> : FloatTile<shoal::Bf16, Bf16Panel> {};
#endif

}  // namespace
