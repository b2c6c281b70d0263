// Tiles of bf16 rows times bf16 weights, two products per lane and instruction: weights as they
// are, and float12. Included by tiles.h where the instructions exist.
#pragma once

namespace {

// Adds `pairs` pairs of inputs of every panel, and asks for what lies `ahead` bytes further on
// (0: for nothing).
template <int MR, int NP>
SHOAL_INLINE void add_pairs(Sums<MR, NP>& sums, const char* const (&x)[MR],
                            const char* const (&panels)[NP], int pairs, std::size_t ahead) {
  for (int k = 0; k < pairs; ++k) {
    typename Vec::I w[NP];
#pragma GCC unroll 16
    for (int j = 0; j < NP; ++j) w[j] = Vec::load_word(panels[j] + k * kPanel * 4);
    if (ahead)
#pragma GCC unroll 16
      for (int j = 0; j < NP; ++j) __builtin_prefetch(panels[j] + k * kPanel * 4 + ahead, 0, 2);
#pragma GCC unroll 8
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

struct Bf16Rows {
  static constexpr int part_inputs = 512, unpack_tiles = 0;
  static constexpr int max_rows = Vec::max_rows;
  static constexpr int panels_for(int rows) { return Vec::panels_for(rows); }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part& part, int m0, int p) {
    const std::size_t stride = shoal::panel_bytes(shoal::Format::bf16, a.k);
    const char* x[MR];
    const char* panels[NP];
    rows_at(a, m0, part.k0, x);
    for (int i = 0; i < NP; ++i) panels[i] = a.panels + (p + i) * stride + part.k0 / 2 * kPanel * 4;
    Sums<MR, NP> sums;
    resume(sums, part, m0);
    // The first tile also asks for the panels that come next.
    const std::size_t ahead = m0 == 0 ? NP * stride : 0;
    add_pairs(sums, x, panels, (part.k1 + 1) / 2 - part.k0 / 2, ahead);
    finish(sums, a, part, m0, p);
  }
};

// bf16 weights in 12 bits. The products and their sums are those of the bf16 weights, at other
// powers of two.
struct Float12Rows {
  static constexpr int part_inputs = 512, unpack_tiles = 3;
  static constexpr int max_rows = Vec::max_rows;
  static constexpr int panels_for(int) { return 4; }  // more streams are no faster

  template <int NP>
  static void unpack(const shoal::LinearArgs& a, const Part& part, int p) {
    const std::size_t stride = shoal::panel_bytes(shoal::Format::float12, a.k);
    const int groups = groups_of(part);
    for (int i = 0; i < NP; ++i) {
      const char* group = group_at(a.panels + (p + i) * stride, part.k0);
      char* to = part.unpacked + static_cast<std::size_t>(i) * groups * kUnpackedGroup;
      for (int g = 0; g < groups; ++g, group += shoal::kGroupBytes, to += kUnpackedGroup) {
        for (int line = 0; line < 3; ++line)
          __builtin_prefetch(group + NP * stride + 64 * line, 0, 2);
        store(to, Vec::float12<0>(group));
        store(to + 64, Vec::float12<1>(group));
        store(to + 128, Vec::float12<2>(group));
        store(to + 192, Vec::float12<3>(group));
      }
    }
  }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part& part, int m0, int p) {
    const char* x[MR];
    const char* panels[NP];
    rows_at(a, m0, part.k0, x);
    Sums<MR, NP> sums;
    resume(sums, part, m0);
    const int groups = groups_of(part);
    if (part.unpacked) {
      for (int i = 0; i < NP; ++i)
        panels[i] = part.unpacked + static_cast<std::size_t>(i) * groups * kUnpackedGroup;
      add_pairs(sums, x, panels, groups * kPairs, 0);
    } else {
      const std::size_t stride = shoal::panel_bytes(shoal::Format::float12, a.k);
      for (int i = 0; i < NP; ++i) panels[i] = group_at(a.panels + (p + i) * stride, part.k0);
      // All sums at once leave no registers to unpack with where there are more than sixteen.
      constexpr int kAtOnce = MR * NP > 16 ? NP / 2 : NP;
      const std::size_t ahead = m0 == 0 ? NP * stride : 0;
      unpack_and_add<0, kAtOnce>(sums, x, panels, groups, ahead);
      if constexpr (kAtOnce < NP) unpack_and_add<kAtOnce, NP>(sums, x, panels, groups, ahead);
    }
    if (part.k1 == a.k) scale_channels(sums, a.w_scale + p * kPanel);
    finish(sums, a, part, m0, p);
  }

 private:
  static constexpr int kPairs = shoal::kGroupInputs / 2, kUnpackedGroup = kPairs * kPanel * 4;

  static int groups_of(const Part& part) {
    return (part.k1 - part.k0 + shoal::kGroupInputs - 1) / shoal::kGroupInputs;
  }
  static const char* group_at(const char* panel, int k) {
    return panel + static_cast<std::size_t>(k / shoal::kGroupInputs) * shoal::kGroupBytes;
  }
  static void store(char* to, typename Vec::I w) { _mm512_store_si512(to, w); }

  // Panels First..Last-1 of the tile.
  template <int First, int Last, int MR, int NP>
  static SHOAL_INLINE void unpack_and_add(Sums<MR, NP>& sums, const char* const (&rows)[MR],
                                          const char* const (&panels)[NP], int groups,
                                          std::size_t ahead) {
    const char* x[MR];
    const char* at[Last - First];
    for (int m = 0; m < MR; ++m) x[m] = rows[m];
    for (int j = First; j < Last; ++j) at[j - First] = panels[j];
    for (int g = 0; g < groups; ++g) {
      if (ahead)
        for (int j = 0; j < Last - First; ++j)
          for (int line = 0; line < shoal::kGroupBytes; line += 64)
            __builtin_prefetch(at[j] + ahead + line, 0, 2);
      add_pair<0, First>(sums, x, at);
      add_pair<1, First>(sums, x, at);
      add_pair<2, First>(sums, x, at);
      add_pair<3, First>(sums, x, at);
      for (int j = 0; j < Last - First; ++j) at[j] += shoal::kGroupBytes;
      for (int m = 0; m < MR; ++m) x[m] += shoal::kGroupInputs * 2;
    }
  }

  template <int Pair, int First, int MR, int NP, int Count>
  static SHOAL_INLINE void add_pair(Sums<MR, NP>& sums, const char* const (&x)[MR],
                                    const char* const (&groups)[Count]) {
    typename Vec::I w[Count];
#pragma GCC unroll 16
    for (int j = 0; j < Count; ++j) w[j] = Vec::float12<Pair>(groups[j]);
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m) {
      const typename Vec::I xm = Vec::broadcast_word(x[m] + Pair * 4);
#pragma GCC unroll 16
      for (int j = 0; j < Count; ++j)
        sums.at[m][First + j] = Vec::dot_bf16(sums.at[m][First + j], w[j], xm);
    }
  }
};

}  // namespace
