// A linear layer cut into tiles: linear<Tile>(args) is the kernel in the table. Called by model/.
//
// A Tile says how one format is multiplied:
//   Row           the row type it reads (rows.h)
//   part_inputs   so many inputs of one panel fit half of the first-level cache, where they stay
//                 while tile after tile of rows goes by; 0: all inputs at once
//   max_rows      of a tile; of `rows` in all none has more than max_rows_of(rows)
//   panels_for    panels of a tile of so many rows
//   tile<MR, NP>  computes rows m0.., panels p.., inputs part.k0..part.k1-1
#pragma once
#include "linear/accumulators.h"

namespace {

// Rows are cut into tiles of nearly equal height (H or H - 1), so none is left with a thin rest.
template <class TileOf, int H, int NP>
void tile_rows(const shoal::LinearArgs& a, int p) {
  const int tiles = (a.rows + H - 1) / H;
  const int tall = a.rows - tiles * (H - 1);  // tiles of height H; the others are one row lower
  const bool in_parts = TileOf::part_inputs && tiles > 1;
  const int step = in_parts ? TileOf::part_inputs / NP : a.k;
  alignas(64) float sums[TileOf::part_inputs ? shoal::kMaxLinearRows * NP * kPanel : 1];
  for (int k = 0; k < a.k; k += step) {
    const Part part{k, a.k - k < step ? a.k : k + step, sums};
    int m = 0;
    for (int i = 0; i < tall; ++i, m += H) TileOf::template tile<H, NP>(a, part, m, p);
    if constexpr (H > 1)
      for (; m < a.rows; m += H - 1) TileOf::template tile<H - 1, NP>(a, part, m, p);
  }
}

// As many panels at once as there are left, down to one: a lone sum waits for its last addition.
template <class TileOf, int H, int NP>
void linear_panels(const shoal::LinearArgs& a, int p) {
  for (; p + NP <= a.p1; p += NP) tile_rows<TileOf, H, NP>(a, p);
  if constexpr (NP > 1)
    if (p < a.p1) linear_panels<TileOf, H, NP / 2>(a, p);
}

// Finds the height that cuts the rows evenly, and runs the code made for it.
template <class TileOf, int H = TileOf::max_rows>
void linear_of_height(const shoal::LinearArgs& a, int height) {
  if (height == H) return linear_panels<TileOf, H, TileOf::panels_for(H)>(a, a.p0);
  if constexpr (H > 1) linear_of_height<TileOf, H - 1>(a, height);
}

template <class TileOf>
void linear(const shoal::LinearArgs& a) {
  const int most = TileOf::max_rows_of(a.rows);
  const int tiles = (a.rows + most - 1) / most;
  if (tiles > 0) linear_of_height<TileOf>(a, (a.rows + tiles - 1) / tiles);
}

}  // namespace
