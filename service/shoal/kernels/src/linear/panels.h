// Panels whose weights become floats: [n][16 floats] and [n / 2][16 pairs of bf16]. `steps` adds n
// rows of NP panels, times x[m][0..n-1], to the sums of MR rows. Called by float_tiles.h and
// attention/attend.h.
#pragma once
#include "linear/accumulators.h"

namespace {

struct FloatPanel {
  template <int MR, int NP>
  static SHOAL_INLINE void steps(Accumulators<MR, NP>& sums, const float* const (&x)[MR],
                                 const char* const (&panels)[NP], int n, std::ptrdiff_t = 0) {
    for (int k = 0; k < n; ++k)
      add_products<MR, NP>(sums, x, k, [&](int j) SHOAL_INLINE_LAMBDA {
        return Vec::load(reinterpret_cast<const float*>(panels[j / kVecs]) + k * kPanel +
                         j % kVecs * Vec::width);
      });
  }
};

// bf16 weights, float rows: the pair in a 32-bit lane becomes two floats by a shift and a mask.
struct Bf16Panel {
  // `further` bytes behind the panels is what is needed next (0: nothing).
  template <int MR, int NP>
  static SHOAL_INLINE void steps(Accumulators<MR, NP>& sums, const float* const (&x)[MR],
                                 const char* const (&panels)[NP], int n,
                                 std::ptrdiff_t further = 0) {
    int k = 0;
    for (; k + 1 < n; k += 2) {
      if (further)
#pragma GCC unroll 16
        for (int j = 0; j < NP; ++j)
          __builtin_prefetch(panels[j] + further + static_cast<std::size_t>(k) * kPanel * 2, 0, 2);
      add_products<MR, NP>(sums, x, k, [&](int j) SHOAL_INLINE_LAMBDA {
        return Vec::low_bf16(word(panels[j / kVecs], k, j));
      });
      keep_order();
      add_products<MR, NP>(sums, x, k + 1, [&](int j) SHOAL_INLINE_LAMBDA {
        return Vec::high_bf16(word(panels[j / kVecs], k, j));
      });
      keep_order();
    }
    if (k < n)  // the other half of the lane may hold anything
      add_products<MR, NP>(sums, x, k, [&](int j) SHOAL_INLINE_LAMBDA {
        return Vec::low_bf16(word(panels[j / kVecs], k, j));
      });
  }

 private:
  static SHOAL_INLINE typename Vec::I word(const char* panel, int k, int j) {
    return Vec::load_word(panel + static_cast<std::size_t>(k / 2) * kPanel * 4 +
                          j % kVecs * Vec::width * 4);
  }
};

}  // namespace
