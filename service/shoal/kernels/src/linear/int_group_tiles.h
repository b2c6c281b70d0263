// int4 and int8 weights times rows of 8-bit integers, both in groups of 32 inputs. A group's sum of
// integers is exact; groups are added as floats, in order:
//   sum += (integers * weight scale) * row scale;  sum += (sum of the row's group) * min
#pragma once
#include "formats/int_groups.h"
#include "linear/accumulators.h"
#include "linear/rows.h"

namespace {

template <class Traits>
struct IntGroupTile {
  using Row = IntGroupRow;
  static constexpr bool exists = true;
  static constexpr int part_inputs = 2048;
  static constexpr int max_rows = Vec::max_rows_int8;
  static constexpr int max_rows_of(int) { return max_rows; }
  static constexpr int panels_for(int rows) { return Vec::panels_for_int8(rows); }

  template <int MR, int NP>
  static void tile(const shoal::LinearArgs& a, const Part& part, int m0, int p) {
    const std::size_t stride = Traits::panel_bytes(a.k);
    const int first = part.k0 / shoal::kGroup, groups = Row::groups(part.k1);
    const typename Row::Group* x[MR];
    const char* at[NP];
    for (int m = 0; m < MR; ++m)
      x[m] = reinterpret_cast<const typename Row::Group*>(static_cast<const char*>(a.x) +
                                                          (m0 + m) * a.x_stride) + first;
    for (int i = 0; i < NP; ++i) at[i] = a.panels + (p + i) * stride + first * Traits::kGroupBytes;
    Accumulators<MR, NP> sums;
    resume(sums, part, m0);
    // Float sums live in memory while the integers of a group need the registers.
    in_memory(sums);
    const Prefetcher<MR, NP> prefetcher(m0, stride);
    for (int g = first; g < groups; ++g) {
      if (prefetcher.active)
#pragma GCC unroll 4
        for (int i = 0; i < NP; ++i)
          for (int line = 0; line < Traits::kGroupBytes; line += 64)
            prefetcher.prefetch(at[i] + line, g * Traits::kGroupBytes + line);
      typename Vec::I acc[MR][NP * kVecs];
#pragma GCC unroll 12
      for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
        for (int j = 0; j < NP * kVecs; ++j)
          acc[m][j] = Traits::bits == 4 ? Vec::no_sum() : Vec::begin_int8(&x[m]->offset);
      if constexpr (Traits::bits == 4)
        add_int4<MR, NP>(acc, x, at);
      else
        add_int8<MR, NP>(acc, x, at);
      add_group<MR, NP>(sums, acc, x, at);
      for (int m = 0; m < MR; ++m) ++x[m];
      for (int i = 0; i < NP; ++i) at[i] += Traits::kGroupBytes;
      in_memory(sums);
    }
    finish(sums, a, part, m0, p);
  }

 private:
  template <int MR, int NP>
  static SHOAL_INLINE void add_int4(typename Vec::I (&acc)[MR][NP * kVecs],
                                    const typename Row::Group* const (&x)[MR],
                                    const char* const (&at)[NP]) {
#pragma GCC unroll 4
    for (int pair = 0; pair < shoal::kGroup / 8; ++pair) {
      typename Vec::I w[NP * kVecs];
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j) w[j] = Vec::low_halves(integers(at, pair, j));
      add_quads<MR, NP>(acc, w, x, 8 * pair);
      keep_order();
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j) w[j] = Vec::high_halves(integers(at, pair, j));
      add_quads<MR, NP>(acc, w, x, 8 * pair + 4);
      keep_order();
    }
  }

  template <int MR, int NP>
  static SHOAL_INLINE void add_quads(typename Vec::I (&acc)[MR][NP * kVecs],
                                     const typename Vec::I (&w)[NP * kVecs],
                                     const typename Row::Group* const (&x)[MR], int k) {
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m) {
      const typename Vec::Quad xm = Vec::quad(x[m]->integers + k);
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j) acc[m][j] = Vec::dot_int4(acc[m][j], w[j], xm);
    }
  }

  template <int MR, int NP>
  static SHOAL_INLINE void add_int8(typename Vec::I (&acc)[MR][NP * kVecs],
                                    const typename Row::Group* const (&x)[MR],
                                    const char* const (&at)[NP]) {
#pragma GCC unroll 8
    for (int quad = 0; quad < shoal::kGroup / 4; ++quad) {
      typename Vec::Int8 w[NP * kVecs];
#pragma GCC unroll 16
      for (int j = 0; j < NP * kVecs; ++j) w[j] = Vec::int8(integers(at, quad, j));
#pragma GCC unroll 12
      for (int m = 0; m < MR; ++m) {
        const typename Vec::Quad xm = Vec::quad(x[m]->integers + 4 * quad);
#pragma GCC unroll 16
        for (int j = 0; j < NP * kVecs; ++j) acc[m][j] = Vec::dot_int8(acc[m][j], w[j], xm);
      }
      keep_order();
    }
  }

  template <int MR, int NP>
  static SHOAL_INLINE void add_group(Accumulators<MR, NP>& sums,
                                     const typename Vec::I (&acc)[MR][NP * kVecs],
                                     const typename Row::Group* const (&x)[MR],
                                     const char* const (&at)[NP]) {
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j) {
      const char* head = at[j / kVecs] + j % kVecs * Vec::width * 2;
      const typename Vec::F scale = Vec::load_f16(head);
      const typename Vec::F min =
          Traits::has_min ? Vec::load_f16(head + Traits::kMinsAt) : Vec::zero();
#pragma GCC unroll 12
      for (int m = 0; m < MR; ++m) {
        const typename Vec::F products = Vec::to_float(
            Traits::bits == 4 ? Vec::end_int4(acc[m][j]) : acc[m][j]);
        typename Vec::F& sum = sums.at[m][j];
        sum = Vec::fma(Vec::mul(products, scale), Vec::set(x[m]->scale), sum);
        if (Traits::has_min) sum = Vec::fma(min, Vec::set(x[m]->sum), sum);
      }
    }
  }

  // 64 bytes of a panel's integers, the part of vector j.
  static SHOAL_INLINE typename Vec::I integers(const char* const* at, int n, int j) {
    return Vec::load_word(at[j / kVecs] + Traits::kIntegersAt + n * kPanel * 4 +
                          j % kVecs * Vec::width * 4);
  }
};

template <>
struct Tile<shoal::Int4> : IntGroupTile<shoal::Int4> {};
template <>
struct Tile<shoal::Int8> : IntGroupTile<shoal::Int8> {};
template <>
struct Tile<shoal::Int8Min> : IntGroupTile<shoal::Int8Min> {};

}  // namespace
