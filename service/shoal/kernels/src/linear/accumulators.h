// The registers of a tile: MR rows times NP panels of 16 outputs, each output summed over k one
// element after the other, so the order of additions is the same in every tile shape. Included by
// the tiles of every format and by attention/attend.h, once per instruction set, after its Vec.
#pragma once
#include "isa/kernels.h"

#define SHOAL_INLINE inline __attribute__((always_inline))
#define SHOAL_INLINE_LAMBDA __attribute__((always_inline))

namespace {

using shoal::kPanel;
constexpr int kVecs = kPanel / Vec::width;  // vectors of one panel row

template <int MR, int NP>
struct Accumulators {
  typename Vec::F at[MR][NP * kVecs];
};

template <int MR, int NP>
SHOAL_INLINE void clear(Accumulators<MR, NP>& sums) {
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j) sums.at[m][j] = Vec::zero();
}

// One row of weights times x[m][k], added to the sums; weights(j) is vector j as floats. The weights
// or the inputs are in registers, whichever are fewer.
template <int MR, int NP, class Weights>
SHOAL_INLINE void add_products(Accumulators<MR, NP>& sums, const float* const (&x)[MR], int k,
                               const Weights& weights) {
  if constexpr (MR < NP * kVecs) {
    typename Vec::F xs[MR];
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m) xs[m] = Vec::set(x[m][k]);
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j) {
      const typename Vec::F w = weights(j);
#pragma GCC unroll 12
      for (int m = 0; m < MR; ++m) sums.at[m][j] = Vec::fma(xs[m], w, sums.at[m][j]);
    }
  } else {
    typename Vec::F w[NP * kVecs];
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j) w[j] = weights(j);
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m) {
      const typename Vec::F xm = Vec::set(x[m][k]);
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j) sums.at[m][j] = Vec::fma(xm, w[j], sums.at[m][j]);
    }
  }
}

template <int MR, int NP>
SHOAL_INLINE void store_tile(const Accumulators<MR, NP>& sums, const shoal::LinearArgs& a, int m0,
                             int p) {
  float* out = a.out + static_cast<std::size_t>(m0) * a.out_stride + (p - a.p0) * kPanel;
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m, out += a.out_stride) {
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j) {
      const int column = j * Vec::width;
      typename Vec::F y = sums.at[m][j];
      if (a.bias) y = Vec::add(y, Vec::load(a.bias + p * kPanel + column));
      if (a.add) y = Vec::add(Vec::load(out + column), y);
      Vec::store(out + column, y);
    }
  }
}

// Inputs k0..k1-1 of a tile. Sums of earlier inputs wait in `sums` ([rows][NP * 16]), exactly.
struct Part {
  int k0, k1;
  float* sums;
};

template <int MR, int NP>
SHOAL_INLINE void resume(Accumulators<MR, NP>& sums, const Part& part, int m0) {
  if (part.k0 == 0) return clear(sums);
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j)
      sums.at[m][j] = Vec::load(part.sums + (m0 + m) * NP * kPanel + j * Vec::width);
}

template <int MR, int NP>
SHOAL_INLINE void finish(const Accumulators<MR, NP>& sums, const shoal::LinearArgs& a,
                         const Part& part, int m0, int p) {
  if (part.k1 == a.k) return store_tile(sums, a, m0, p);
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j)
      Vec::store(part.sums + (m0 + m) * NP * kPanel + j * Vec::width, sums.at[m][j]);
}

template <int MR, int NP>
SHOAL_INLINE void scale_channels(Accumulators<MR, NP>& sums, const float* scales) {
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j)
      sums.at[m][j] = Vec::mul(sums.at[m][j], Vec::load(scales + j * Vec::width));
}

// The compiler moves no read of memory across this.
SHOAL_INLINE void keep_order() { asm volatile("" ::: "memory"); }

// `value` is in memory at this place, not in registers.
template <class T>
SHOAL_INLINE void in_memory(T& value) {
  asm volatile("" : "+m"(value));
}

// Fetches weights while the first tile of rows computes, `offset` bytes behind the beginnings of
// its panels. A tile of few rows fetches what lies a little further on, and near the end of a panel
// the beginning of the next one. A tile of many rows has time to fetch more: the same place of the
// next.
template <int MR, int NP>
struct Prefetcher {
  static constexpr bool kNear = MR <= Vec::max_rows;
  static constexpr std::ptrdiff_t kReach = 3072;
  bool active;
  std::ptrdiff_t next_panel, switch_at;  // bytes to the next panel; where to begin fetching it

  Prefetcher(int m0, std::size_t stride)
      : active(m0 == 0),
        next_panel(NP * static_cast<std::ptrdiff_t>(stride)),
        switch_at(static_cast<std::ptrdiff_t>(stride) - kReach) {}

  SHOAL_INLINE void prefetch(const char* at, std::ptrdiff_t offset) const {
    if constexpr (kNear)
      __builtin_prefetch(at + (offset < switch_at ? kReach : next_panel - switch_at), 0, 3);
    else
      __builtin_prefetch(at + next_panel, 0, 2);
  }
};

// The primary template: an instruction set that has no tile for a format.
template <class Traits>
struct Tile {
  static constexpr bool exists = false;
};

}  // namespace
