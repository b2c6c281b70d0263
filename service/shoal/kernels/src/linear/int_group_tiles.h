// int4 and int8 weights times rows of 8-bit integers, both in groups of 32 inputs. A group's sum of
// integers is exact; groups are added as floats, in order, and the sum times the row's unit is the
// result:
//   sum += (integers * row scale) * weight scale;  sum += (sum of the row's group) * min
#pragma once
#include "formats/int_groups.h"
#include "linear/accumulators.h"
#include "linear/rows.h"

namespace {

// Rows of a tile, each `stride` bytes behind the one before. Three registers hold six of them.
template <class Group>
struct TileRows {
  const char *first, *fourth;
  std::size_t stride;

  TileRows(const char* x, std::size_t stride) : first(x), fourth(x + 3 * stride), stride(stride) {}
  SHOAL_INLINE const Group& operator[](int m) const {
    return *reinterpret_cast<const Group*>(m < 3 ? first + m * stride : fourth + (m - 3) * stride);
  }
  SHOAL_INLINE void advance() {
    first += sizeof(Group);
    fourth += sizeof(Group);
  }
};

template <class Traits>
struct IntGroupTile {
  using Row = IntGroupRow;
  using Rows = TileRows<typename Row::Group>;
  static constexpr bool exists = true;
  static constexpr int part_inputs = 2048;
  static constexpr int max_rows = Traits::bits == 4 ? Vec::max_rows_int4 : Vec::max_rows_int8;
  static constexpr int max_rows_of(int) { return max_rows; }
  static constexpr int panels_for(int rows) {
    return Traits::bits == 4 ? Vec::panels_for_int4(rows) : Vec::panels_for_int8(rows);
  }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part& part, int m0, int p) {
    const std::size_t stride = Traits::panel_bytes(a.k);
    const int first = part.k0 / shoal::kGroup, groups = Row::groups(part.k1);
    const char* row = static_cast<const char*>(a.x) + m0 * a.x_stride;
    Rows x(row + first * sizeof(typename Row::Group), a.x_stride);
    const char* at[NP];
    for (int i = 0; i < NP; ++i) at[i] = a.panels + (p + i) * stride + first * Traits::kGroupBytes;
    Accumulators<MR, NP> sums;
    resume(sums, part, m0);
    hold<MR, NP>(sums);
    const Prefetcher<MR, NP> prefetcher(m0, stride);
    for (int g = first; g < groups; ++g) {
      if (prefetcher.active)
#pragma GCC unroll 4
        for (int i = 0; i < NP; ++i)
          for (int line = 0; line < Traits::kGroupBytes; line += 64)
            prefetcher.prefetch(at[i] + line, g * Traits::kGroupBytes + line);
      typename Vec::I acc[MR][NP * kVecs];
      add_integers<MR, NP>(acc, x, at);
      add_group<MR, NP>(sums, acc, x, at);
      x.advance();
      for (int i = 0; i < NP; ++i) at[i] += Traits::kGroupBytes;
      hold<MR, NP>(sums);
    }
    if (part.k1 == a.k) scale_rows(sums, a, row);
    finish(sums, a, part, m0, p);
  }

 private:
  // Float sums live in memory where the integers of a group need the registers.
  template <int MR, int NP>
  static SHOAL_INLINE void hold(Accumulators<MR, NP>& sums) {
    if constexpr (MR * NP * kVecs > Vec::sums_beside_int_groups) in_memory(sums);
  }

  template <int MR, int NP>
  static SHOAL_INLINE void scale_rows(Accumulators<MR, NP>& sums, const shoal::LinearArgs& a,
                                      const char* row) {
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m, row += a.x_stride) {
      const typename Vec::F unit =
          Vec::set(Row::unit(reinterpret_cast<const typename Row::Group*>(row), a.k));
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j) sums.at[m][j] = Vec::mul(sums.at[m][j], unit);
    }
  }

  // Four inputs of vector j's outputs. With 4 bits a byte holds one of each of two quads.
  static SHOAL_INLINE auto weights(const char* group, int quad, int j) {
    constexpr int kPerByte = 8 / Traits::bits;
    const typename Vec::I bytes = Vec::load_word(group + Traits::kIntegersAt +
                                                 (quad / kPerByte * kPanel + j * Vec::width) * 4);
    if constexpr (Traits::bits == 8)
      return Vec::int8(bytes);
    else
      return quad % 2 == 0 ? Vec::low_halves(bytes) : Vec::high_halves(bytes);
  }

  // Sums of a group's products; the first one begins them.
  template <int MR, int NP>
  static SHOAL_INLINE void add_integers(typename Vec::I (&acc)[MR][NP * kVecs], const Rows& x,
                                        const char* const (&at)[NP]) {
#pragma GCC unroll 8
    for (int quad = 0; quad < shoal::kGroup / 4; ++quad) {
      decltype(weights(at[0], 0, 0)) w[NP * kVecs];
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j) w[j] = weights(at[j / kVecs], quad, j % kVecs);
#pragma GCC unroll 12
      for (int m = 0; m < MR; ++m) {
        const typename Vec::Quad xm = Vec::quad(x[m].integers + 4 * quad);
#pragma GCC unroll 16
        for (int j = 0; j < NP * kVecs; ++j)
          if constexpr (Traits::bits == 4)
            acc[m][j] = quad == 0 ? Vec::first_int4(w[j], xm) : Vec::dot_int4(acc[m][j], w[j], xm);
          else
            acc[m][j] = quad == 0 ? Vec::first_int8(x[m].start, w[j], xm)
                                  : Vec::dot_int8(acc[m][j], w[j], xm);
      }
      keep_order();
    }
  }

  template <int MR, int NP>
  static SHOAL_INLINE void add_group(Accumulators<MR, NP>& sums,
                                     const typename Vec::I (&acc)[MR][NP * kVecs], const Rows& x,
                                     const char* const (&at)[NP]) {
    typename Vec::F scale[NP * kVecs], min[NP * kVecs];
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j) {
        const char* head = at[j / kVecs] + j % kVecs * Vec::width * 2;
        if (m == 0) scale[j] = Vec::load_f16(head);
        const typename Vec::F products = Traits::bits == 4 ? Vec::end_int4(acc[m][j], x[m])
                                                           : Vec::end_int8(acc[m][j], x[m]);
        typename Vec::F sum = Vec::fma(products, scale[j], sums.at[m][j]);
        if constexpr (Traits::has_min) {
          if (m == 0) min[j] = Vec::load_f16(head + Traits::kMinsAt);
          sum = Vec::fma(min[j], Vec::set(x[m].sum), sum);
        }
        sums.at[m][j] = sum;
      }
      keep_order();
    }
  }
};

template <>
struct Tile<shoal::Int4> : IntGroupTile<shoal::Int4> {};
template <>
struct Tile<shoal::Int8> : IntGroupTile<shoal::Int8> {};
template <>
struct Tile<shoal::Int8Min> : IntGroupTile<shoal::Int8Min> {};

}  // namespace
