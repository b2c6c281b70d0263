// Tiles of bf16 rows times bf16 weights, two products per lane and instruction: weights as they
// are, and float12. Included by tiles.h where the instructions exist.
#pragma once

namespace {

// Adds `pairs` pairs of inputs of every panel, from byte `offset` of it on.
template <int MR, int NP>
SHOAL_INLINE void add_pairs(Sums<MR, NP>& sums, const char* const (&x)[MR],
                            const char* const (&panels)[NP], int pairs, std::ptrdiff_t offset,
                            const Ahead<MR, NP>& ahead) {
  for (int k = 0; k < pairs; ++k) {
    typename Vec::I w[NP];
#pragma GCC unroll 16
    for (int j = 0; j < NP; ++j) w[j] = Vec::load_word(panels[j] + k * kPanel * 4);
    if (ahead.wanted)
#pragma GCC unroll 16
      for (int j = 0; j < NP; ++j)
        ahead.ask(panels[j] + k * kPanel * 4, offset + k * kPanel * 4);
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

struct Bf16Rows {
  static constexpr int part_inputs = 512, max_rows = 12;
  // Two low tiles of four panels read less than a tall one of two, but weights twice.
  static constexpr int most_of(int rows) { return rows <= max_rows ? max_rows : Vec::max_rows; }
  static constexpr int panels_for(int rows) {
    return rows > Vec::max_rows ? 2 : Vec::panels_for(rows);
  }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part& part, int m0, int p) {
    const std::size_t stride = shoal::panel_bytes(shoal::Format::bf16, a.k);
    const char* x[MR];
    const char* panels[NP];
    rows_at(a, m0, part.k0, x);
    const std::ptrdiff_t offset = part.k0 / 2 * kPanel * 4;
    for (int i = 0; i < NP; ++i) panels[i] = a.panels + (p + i) * stride + offset;
    Sums<MR, NP> sums;
    resume(sums, part, m0);
    add_pairs(sums, x, panels, (part.k1 + 1) / 2 - part.k0 / 2, offset, {m0, stride});
    finish(sums, a, part, m0, p);
  }
};

// bf16 weights in 12 bits. The products and their sums are those of the bf16 weights, at other
// powers of two.
struct Float12Rows {
  static constexpr int part_inputs = 1024, max_rows = 12;
  static constexpr int most_of(int) { return max_rows; }  // unpacked once for as many as can be
  static constexpr int panels_for(int rows) { return rows > Vec::max_rows ? 2 : 4; }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part& part, int m0, int p) {
    const char* x[MR];
    const char* panels[NP];
    rows_at(a, m0, part.k0, x);
    Sums<MR, NP> sums;
    resume(sums, part, m0);
    const std::size_t stride = shoal::panel_bytes(shoal::Format::float12, a.k);
    const std::ptrdiff_t offset = part.k0 / shoal::kGroupInputs * shoal::kGroupBytes;
    for (int i = 0; i < NP; ++i) panels[i] = a.panels + (p + i) * stride + offset;
    const int groups = (part.k1 - part.k0 + shoal::kGroupInputs - 1) / shoal::kGroupInputs;
    const Ahead<MR, NP> ahead(m0, stride);
    // Four panels' weights and more than sixteen sums do not fit the registers together.
    constexpr int kAtOnce = NP == 4 && MR > 4 ? 2 : NP;
    unpack_and_add<0, kAtOnce>(sums, x, panels, groups, offset, ahead);
    if constexpr (kAtOnce < NP) unpack_and_add<kAtOnce, NP>(sums, x, panels, groups, offset, ahead);
    if (part.k1 == a.k) scale_channels(sums, a.w_scale + p * kPanel);
    finish(sums, a, part, m0, p);
  }

 private:
  // Panels First..Last-1 of the tile.
  template <int First, int Last, int MR, int NP>
  static SHOAL_INLINE void unpack_and_add(Sums<MR, NP>& sums, const char* const (&rows)[MR],
                                          const char* const (&panels)[NP], int groups,
                                          std::ptrdiff_t offset, const Ahead<MR, NP>& ahead) {
    const char* x[MR];
    const char* at[Last - First];
    for (int m = 0; m < MR; ++m) x[m] = rows[m];
    for (int j = First; j < Last; ++j) at[j - First] = panels[j];
    for (int g = 0; g < groups; ++g, offset += shoal::kGroupBytes) {
      if (ahead.wanted)
        for (int j = 0; j < Last - First; ++j)
          for (int line = 0; line < shoal::kGroupBytes; line += 64)
            ahead.ask(at[j] + line, offset + line);
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
