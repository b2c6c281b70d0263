// Register tiles: MR rows times NP panels, each output summed over k one element after the other.
// The order of additions is therefore the same in every tile shape. Included once per instruction
// set, after its Vec.
#pragma once
#include "kernels.h"

#define SHOAL_INLINE inline __attribute__((always_inline))

namespace {

using shoal::kPanel;
constexpr int kVecs = kPanel / Vec::width;  // vectors of one panel row

template <int MR, int NP>
struct Sums {
  typename Vec::F at[MR][NP * kVecs];
};

template <int MR, int NP>
SHOAL_INLINE void clear(Sums<MR, NP>& sums) {
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j) sums.at[m][j] = Vec::zero();
}

// One row of weights (already float) times x[m][k], added to the sums.
template <int MR, int NP>
SHOAL_INLINE void add_products(Sums<MR, NP>& sums, const float* const (&x)[MR], int k,
                               const typename Vec::F (&w)[NP * kVecs]) {
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m) {
    const typename Vec::F xm = Vec::set(x[m][k]);
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j) sums.at[m][j] = Vec::fma(xm, w[j], sums.at[m][j]);
  }
}

struct F32 {
  template <int MR, int NP>
  static SHOAL_INLINE void steps(Sums<MR, NP>& sums, const float* const (&x)[MR],
                                 const char* const (&panels)[NP], int n, std::size_t = 0) {
    for (int k = 0; k < n; ++k) {
      typename Vec::F w[NP * kVecs];
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j)
        w[j] = Vec::load(reinterpret_cast<const float*>(panels[j / kVecs]) + k * kPanel +
                         j % kVecs * Vec::width);
      add_products<MR, NP>(sums, x, k, w);
    }
  }
};

// Nothing is read earlier than it is written here.
SHOAL_INLINE void keep_order() { asm volatile("" ::: "memory"); }

// `value` is in memory at this place, not in registers.
template <class T>
SHOAL_INLINE void in_memory(T& value) {
  asm volatile("" : "+m"(value));
}

// bf16 weights, float rows: the pair in a 32-bit lane becomes two floats by a shift and a mask.
struct Bf16 {
  // `further` bytes behind the panels is what is needed next (0: nothing).
  template <int MR, int NP>
  static SHOAL_INLINE void steps(Sums<MR, NP>& sums, const float* const (&x)[MR],
                                 const char* const (&panels)[NP], int n, std::size_t further = 0) {
    int k = 0;
    for (; k + 1 < n; k += 2) {
      if (further)
#pragma GCC unroll 16
        for (int j = 0; j < NP; ++j)
          __builtin_prefetch(panels[j] + further + static_cast<std::size_t>(k) * kPanel * 2, 0, 2);
      typename Vec::F w[NP * kVecs];
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j) w[j] = Vec::low_bf16(word(panels[j / kVecs], k, j));
      add_products<MR, NP>(sums, x, k, w);
      keep_order();
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j) w[j] = Vec::high_bf16(word(panels[j / kVecs], k, j));
      add_products<MR, NP>(sums, x, k + 1, w);
      keep_order();
    }
    if (k < n) {  // the other half of the lane may hold anything
      typename Vec::F w[NP * kVecs];
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j) w[j] = Vec::low_bf16(word(panels[j / kVecs], k, j));
      add_products<MR, NP>(sums, x, k, w);
    }
  }

 private:
  static SHOAL_INLINE typename Vec::I word(const char* panel, int k, int j) {
    return Vec::load_word(panel + static_cast<std::size_t>(k / 2) * kPanel * 4 +
                          j % kVecs * Vec::width * 4);
  }
};

template <int MR, int NP>
SHOAL_INLINE void store_tile(const Sums<MR, NP>& sums, const shoal::LinearArgs& a, int m0, int p) {
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
SHOAL_INLINE void resume(Sums<MR, NP>& sums, const Part& part, int m0) {
  if (part.k0 == 0) return clear(sums);
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j)
      sums.at[m][j] = Vec::load(part.sums + (m0 + m) * NP * kPanel + j * Vec::width);
}

template <int MR, int NP>
SHOAL_INLINE void finish(const Sums<MR, NP>& sums, const shoal::LinearArgs& a, const Part& part,
                         int m0, int p) {
  if (part.k1 == a.k) return store_tile(sums, a, m0, p);
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j)
      Vec::store(part.sums + (m0 + m) * NP * kPanel + j * Vec::width, sums.at[m][j]);
}

template <int MR, int NP>
SHOAL_INLINE void scale_channels(Sums<MR, NP>& sums, const float* scales) {
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j)
      sums.at[m][j] = Vec::mul(sums.at[m][j], Vec::load(scales + j * Vec::width));
}

// What the first tile asks for while it computes, `offset` bytes behind the beginnings of its panels.
// One of few rows asks for what lies a little further on, and near the end of a panel for the
// beginning of the one that comes next. One of many has time for more: for the same place of the
// next.
template <int MR, int NP>
struct Ahead {
  static constexpr bool kNear = MR <= Vec::max_rows;
  static constexpr std::ptrdiff_t kReach = 3072;
  bool wanted;
  std::ptrdiff_t next, turn;  // bytes to the panel that comes next; where to ask for it

  Ahead(int m0, std::size_t stride)
      : wanted(m0 == 0),
        next(NP * static_cast<std::ptrdiff_t>(stride)),
        turn(static_cast<std::ptrdiff_t>(stride) - kReach) {}

  SHOAL_INLINE void ask(const char* at, std::ptrdiff_t offset) const {
    if constexpr (kNear)
      __builtin_prefetch(at + (offset < turn ? kReach : next - turn), 0, 3);
    else
      __builtin_prefetch(at + next, 0, 2);
  }
};

// How one format computes a tile of a linear layer. `part_inputs` inputs of one panel fit half of
// the first-level cache, where they stay while tile after tile of rows goes by. No tile has more
// than `max_rows` rows, and of `rows` in all none has more than `most_of(rows)`.
template <class Weights>
struct FloatRows {
  static constexpr bool kIsBf16 = __is_same(Weights, Bf16);
  static constexpr int part_inputs = 256;
  static constexpr int max_rows = kIsBf16 ? Vec::max_rows_bf16 : Vec::max_rows;
  static constexpr int most_of(int) { return max_rows; }
  static constexpr int panels_for(int rows) {
    return kIsBf16 ? Vec::panels_for_bf16(rows) : Vec::panels_for(rows);
  }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part& part, int m0, int p) {
    const std::size_t stride =
        shoal::panel_bytes(kIsBf16 ? shoal::Format::bf16 : shoal::Format::f32,
                           a.k);
    const float* x[MR];
    const char* panels[NP];
    for (int m = 0; m < MR; ++m)
      x[m] = reinterpret_cast<const float*>(static_cast<const char*>(a.x) +
                                            (m0 + m) * a.x_stride) + part.k0;
    for (int i = 0; i < NP; ++i)
      panels[i] = a.panels + (p + i) * stride + part.k0 * kPanel * (kIsBf16 ? 2 : 4);
    Sums<MR, NP> sums;
    resume(sums, part, m0);
    Weights::template steps<MR, NP>(sums, x, panels, part.k1 - part.k0);
    finish(sums, a, part, m0, p);
  }
};

#if defined(SHOAL_VNNI)
#include "tiles_bf16.h"
#endif

// int8 weights and rows: the integer sums are exact, so only the scaling rounds.
struct Int8Rows {
  static constexpr int part_inputs = 0;  // all at once: a part's sums would be integers
  static constexpr int max_rows = Vec::max_rows_int8;
  static constexpr int most_of(int) { return max_rows; }
  static constexpr int panels_for(int rows) { return Vec::panels_for_int8(rows); }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part&, int m0, int p) {
    const std::size_t stride = shoal::panel_bytes(shoal::Format::int8, a.k);
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
    const Ahead<MR, NP> ahead(m0, stride);
    for (int k = 0; k < (a.k + 3) / 4; ++k) {
      if (MR > 1 && ahead.wanted)  // one row has no time for it
#pragma GCC unroll 4
        for (int i = 0; i < NP; ++i)
          ahead.ask(panels[i] + static_cast<std::ptrdiff_t>(k) * kPanel * 4, k * kPanel * 4);
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
    Sums<MR, NP> sums;
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

// bf16 weights as 16-bit integers times rows of the same. A block's integer sum is exact; blocks
// are added as floats, in order. Rows keep 13 bits of the largest in their block: what is rounded
// away is less than bf16 rows lose, unless one of 32 inputs is hundreds of times all others.
struct FixedRows {
  static constexpr int part_inputs = 512;
  static constexpr int max_rows = Vec::max_rows_fixed;
  static constexpr int most_of(int) { return max_rows; }
  static constexpr int panels_for(int rows) { return Vec::panels_for_fixed(rows); }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part& part, int m0, int p) {
    constexpr int kBlock = shoal::kFixedBlock;
    const std::size_t stride = shoal::panel_bytes(shoal::Format::fixed16, a.k);
    const char* x[MR];
    const float* scales[MR];
    const char* panels[NP];
    for (int m = 0; m < MR; ++m) {
      x[m] = static_cast<const char*>(a.x) + (m0 + m) * a.x_stride;
      scales[m] = reinterpret_cast<const float*>(x[m] + 2 * shoal::round_up(a.k, kBlock));
    }
    for (int i = 0; i < NP; ++i) panels[i] = a.panels + (p + i) * stride;
    Sums<MR, NP> sums;
    resume(sums, part, m0);
    // Float sums live in memory while the integers of a block need the registers.
    in_memory(sums);
    const Ahead<MR, NP> ahead(m0, stride);
    for (int k = part.k0; k < part.k1; k += kBlock) {
      typename Vec::I acc[MR][NP * kVecs];
#pragma GCC unroll 12
      for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
        for (int j = 0; j < NP * kVecs; ++j) acc[m][j] = Vec::no_sum();
      const int end = k + kBlock < part.k1 ? k + kBlock : part.k1;
      for (int pair = k / 2; pair < (end + 1) / 2; ++pair) {
        if (ahead.wanted)
#pragma GCC unroll 4
          for (int i = 0; i < NP; ++i)
            ahead.ask(panels[i] + static_cast<std::ptrdiff_t>(pair) * kPanel * 4,
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
          for (int j = 0; j < NP * kVecs; ++j) acc[m][j] = Vec::dot_fixed(acc[m][j], w[j], xm);
        }
      }
#pragma GCC unroll 12
      for (int m = 0; m < MR; ++m) {
        const typename Vec::F scale = Vec::set(scales[m][k / kBlock]);
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

// Rows are cut into tiles of nearly equal height (H or H - 1), so none is left with a thin rest.
template <class Rows, int H, int NP>
void tile_rows(const shoal::LinearArgs& a, int p) {
  const int tiles = (a.rows + H - 1) / H;
  const int tall = a.rows - tiles * (H - 1);  // tiles of height H; the others are one row lower
  const bool in_parts = Rows::part_inputs && tiles > 1;
  const int step = in_parts ? Rows::part_inputs / NP : a.k;
  alignas(64) float sums[Rows::part_inputs ? shoal::kMaxLinearRows * NP * kPanel : 1];
  for (int k = 0; k < a.k; k += step) {
    const Part part{k, a.k - k < step ? a.k : k + step, sums};
    int m = 0;
    for (int i = 0; i < tall; ++i, m += H) Rows::template tile<H, NP>(a, part, m, p);
    if constexpr (H > 1)
      for (; m < a.rows; m += H - 1) Rows::template tile<H - 1, NP>(a, part, m, p);
  }
}

// As many panels at once as there are left, down to one: a lone sum waits for its last addition.
template <class Rows, int H, int NP>
void linear_panels(const shoal::LinearArgs& a, int p) {
  for (; p + NP <= a.p1; p += NP) tile_rows<Rows, H, NP>(a, p);
  if constexpr (NP > 1)
    if (p < a.p1) linear_panels<Rows, H, NP / 2>(a, p);
}

// Finds the height that cuts the rows evenly, and runs the code made for it.
template <class Rows, int H = Rows::max_rows>
void linear_of_height(const shoal::LinearArgs& a, int height) {
  if (height == H) return linear_panels<Rows, H, Rows::panels_for(H)>(a, a.p0);
  if constexpr (H > 1) linear_of_height<Rows, H - 1>(a, height);
}

template <class Rows>
void linear(const shoal::LinearArgs& a) {
  const int most = Rows::most_of(a.rows);
  const int tiles = (a.rows + most - 1) / most;
  if (tiles > 0) linear_of_height<Rows>(a, (a.rows + tiles - 1) / tiles);
}

}  // namespace
