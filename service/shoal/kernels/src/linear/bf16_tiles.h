// bf16 rows times bf16 weights, two products per lane and instruction: weights as they are, and
// bf16_packed12. Included by isa/table.h where the instructions exist.
#pragma once
#include "formats/bf16_packed12.h"
#include "formats/plain.h"
#include "linear/accumulators.h"
#include "linear/rows.h"

namespace {

// Adds `pairs` pairs of inputs of every panel, from byte `offset` of it on.
template <int MR, int NP>
SHOAL_INLINE void add_pairs(Accumulators<MR, NP>& sums, const char* const (&x)[MR],
                            const char* const (&panels)[NP], int pairs, std::ptrdiff_t offset,
                            const Prefetcher<MR, NP>& prefetcher) {
  for (int k = 0; k < pairs; ++k) {
    typename Vec::I w[NP];
#pragma GCC unroll 16
    for (int j = 0; j < NP; ++j) w[j] = Vec::load_word(panels[j] + k * kPanel * 4);
    if (prefetcher.active)
#pragma GCC unroll 16
      for (int j = 0; j < NP; ++j)
        prefetcher.prefetch(panels[j] + k * kPanel * 4, offset + k * kPanel * 4);
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m) {
      const typename Vec::I xm = Vec::broadcast_word(x[m] + k * 4);
#pragma GCC unroll 16
      for (int j = 0; j < NP; ++j) sums.at[m][j] = Vec::dot_bf16(sums.at[m][j], w[j], xm);
    }
  }
}

template <int MR>
SHOAL_INLINE void rows_at(const shoal::LinearArgs& a, int m0, int k, const char* (&x)[MR]) {
  for (int m = 0; m < MR; ++m)
    x[m] = static_cast<const char*>(a.x) + (m0 + m) * a.x_stride + k * 2;
}

template <>
struct Tile<shoal::Bf16> {
  using Row = Bf16Row;
  static constexpr bool exists = true;
  static constexpr int part_inputs = 512, max_rows = 12;
  // Two low tiles of four panels read less than a tall one of two, but weights twice.
  static constexpr int max_rows_of(int rows) { return rows <= max_rows ? max_rows : Vec::max_rows; }
  static constexpr int panels_for(int rows) {
    return rows > Vec::max_rows ? 2 : Vec::panels_for(rows);
  }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part& part, int m0, int p) {
    const std::size_t stride = shoal::Bf16::panel_bytes(a.k);
    const char* x[MR];
    const char* panels[NP];
    rows_at(a, m0, part.k0, x);
    const std::ptrdiff_t offset = part.k0 / 2 * kPanel * 4;
    for (int i = 0; i < NP; ++i) panels[i] = a.panels + (p + i) * stride + offset;
    Accumulators<MR, NP> sums;
    resume(sums, part, m0);
    add_pairs(sums, x, panels, (part.k1 + 1) / 2 - part.k0 / 2, offset, {m0, stride});
    finish(sums, a, part, m0, p);
  }
};

template <>
struct Tile<shoal::Bf16Packed12> {
  using Row = ScaledBf16Row;
  using Packed = shoal::Bf16Packed12;
  static constexpr bool exists = true;
  static constexpr int part_inputs = 1024, max_rows = 12;
  static constexpr int max_rows_of(int) { return max_rows; }  // unpacked once for as many as can be
  static constexpr int panels_for(int rows) { return rows > Vec::max_rows ? 2 : 4; }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part& part, int m0, int p) {
    const char* x[MR];
    const char* panels[NP];
    rows_at(a, m0, part.k0, x);
    Accumulators<MR, NP> sums;
    resume(sums, part, m0);
    const std::size_t stride = Packed::panel_bytes(a.k);
    const std::ptrdiff_t offset = part.k0 / Packed::kGroupInputs * Packed::kGroupBytes;
    for (int i = 0; i < NP; ++i) panels[i] = a.panels + (p + i) * stride + offset;
    const int groups = (part.k1 - part.k0 + Packed::kGroupInputs - 1) / Packed::kGroupInputs;
    const Prefetcher<MR, NP> prefetcher(m0, stride);
    // Four panels' weights and more than sixteen sums do not fit the registers together.
    constexpr int kAtOnce = NP == 4 && MR > 4 ? 2 : NP;
    unpack_and_add<0, kAtOnce>(sums, x, panels, groups, offset, prefetcher);
    if constexpr (kAtOnce < NP)
      unpack_and_add<kAtOnce, NP>(sums, x, panels, groups, offset, prefetcher);
    if (part.k1 == a.k) scale_channels(sums, a.w_scale + p * kPanel);
    finish(sums, a, part, m0, p);
  }

 private:
  // Panels First..Last-1 of the tile.
  template <int First, int Last, int MR, int NP>
  static SHOAL_INLINE void unpack_and_add(Accumulators<MR, NP>& sums, const char* const (&rows)[MR],
                                          const char* const (&panels)[NP], int groups,
                                          std::ptrdiff_t offset,
                                          const Prefetcher<MR, NP>& prefetcher) {
    const char* x[MR];
    const char* at[Last - First];
    for (int m = 0; m < MR; ++m) x[m] = rows[m];
    for (int j = First; j < Last; ++j) at[j - First] = panels[j];
    for (int g = 0; g < groups; ++g, offset += Packed::kGroupBytes) {
      if (prefetcher.active)
        for (int j = 0; j < Last - First; ++j)
          for (int line = 0; line < Packed::kGroupBytes; line += 64)
            prefetcher.prefetch(at[j] + line, offset + line);
      add_pair<0, First>(sums, x, at);
      add_pair<1, First>(sums, x, at);
      add_pair<2, First>(sums, x, at);
      add_pair<3, First>(sums, x, at);
      for (int j = 0; j < Last - First; ++j) at[j] += Packed::kGroupBytes;
      for (int m = 0; m < MR; ++m) x[m] += Packed::kGroupInputs * 2;
    }
  }

  template <int Pair, int First, int MR, int NP, int Count>
  static SHOAL_INLINE void add_pair(Accumulators<MR, NP>& sums, const char* const (&x)[MR],
                                    const char* const (&groups)[Count]) {
    typename Vec::I w[Count];
#pragma GCC unroll 16
    for (int j = 0; j < Count; ++j) w[j] = Vec::unpack12<Pair>(groups[j]);
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m) {
      const typename Vec::I xm = Vec::broadcast_word(x[m] + Pair * 4);
#pragma GCC unroll 16
      for (int j = 0; j < Count; ++j)
        sums.at[m][First + j] = Vec::dot_bf16(sums.at[m][First + j], w[j], xm);
    }
  }
};

}  // namespace
