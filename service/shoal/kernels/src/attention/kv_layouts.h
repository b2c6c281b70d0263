// How keys and values of a block lie in the KV cache, by KvFormat: K is a panel [head_dim][16
// keys], V one panel [16 keys][16 dims] per 16 dims; of floats, of pairs of bf16, or of int8 with
// one scale per token for K and one for V behind them. Included by attend.h.
#pragma once
#include <cmath>

#include "linear/panels.h"
#include "linear/rows.h"

namespace {

using shoal::kBlock;

// As the panels of linear/panels.h; the scales come later.
struct Int8Panel {
  template <int MR, int NP>
  static SHOAL_INLINE void steps(Accumulators<MR, NP>& sums, const float* const (&x)[MR],
                                 const char* const (&panels)[NP], int n,
                                 std::ptrdiff_t further = 0) {
    for (int k = 0; k < n; ++k) {
      if (further && k % 4 == 0)
#pragma GCC unroll 16
        for (int j = 0; j < NP; ++j) __builtin_prefetch(panels[j] + further + k * kPanel, 0, 2);
      add_products<MR, NP>(sums, x, k, [&](int j) SHOAL_INLINE_LAMBDA {
        return Vec::load_int8(panels[j / kVecs] + k * kPanel + j % kVecs * Vec::width);
      });
    }
  }
};

template <class Panel>
struct KvLayout;
template <>
struct KvLayout<FloatPanel> {
  static constexpr bool has_scales = false;
  static constexpr int slice_bytes = kBlock * kPanel * 4;  // V: 16 dims of 16 keys
  static void store(const shoal::StoreKvArgs& a) {
    float* k = reinterpret_cast<float*>(a.k);
    float* v = reinterpret_cast<float*>(a.v);
    for (int d = 0; d < a.head_dim; ++d) {
      k[d * kBlock + a.offset] = a.key[d];
      v[(d / kPanel * kBlock + a.offset) * kPanel + d % kPanel] = a.value[d];
    }
  }
};
template <>
struct KvLayout<Bf16Panel> {
  static constexpr bool has_scales = false;
  static constexpr int slice_bytes = kBlock * kPanel * 2;
  static void store(const shoal::StoreKvArgs& a) {
    std::uint16_t* k = reinterpret_cast<std::uint16_t*>(a.k) + a.offset * 2;
    std::uint16_t* v = reinterpret_cast<std::uint16_t*>(a.v) + a.offset / 2 * kPanel * 2 +
                       a.offset % 2;
    constexpr int kPiece = 64;  // dims rounded at once
    std::uint16_t key[kPiece], value[kPiece];
    for (int d0 = 0; d0 < a.head_dim; d0 += kPiece) {
      const int n = a.head_dim - d0 < kPiece ? a.head_dim - d0 : kPiece;
      Bf16Row::to_bf16(a.key + d0, n, key);
      Bf16Row::to_bf16(a.value + d0, n, value);
      for (int i = 0; i + 1 < n; i += 2)
        __builtin_memcpy(k + (d0 + i) * kBlock, key + i, 2 * sizeof(*key));
      if (n % 2) k[(d0 + n - 1) * kBlock] = key[n - 1];
      for (int i = 0; i < n; ++i)
        v[(d0 + i) / kPanel * kBlock * kPanel + i % kPanel * 2] = value[i];
    }
  }
};

template <>
struct KvLayout<Int8Panel> {
  static constexpr bool has_scales = true;
  static constexpr int slice_bytes = kBlock * kPanel;
  static void store(const shoal::StoreKvArgs& a) {
    std::int8_t* k = reinterpret_cast<std::int8_t*>(a.k) + a.offset;
    std::int8_t* v = reinterpret_cast<std::int8_t*>(a.v) + a.offset * kPanel;
    a.scales[a.offset] =
        quantize(a.key, a.head_dim, [&](int d, std::int8_t x) { k[d * kBlock] = x; });
    a.scales[kBlock + a.offset] = quantize(a.value, a.head_dim, [&](int d, std::int8_t x) {
      v[d / kPanel * slice_bytes + d % kPanel] = x;
    });
  }

 private:
  // Integers within +-127 of one scale, which is returned: NaN where a float is not finite.
  template <class Put>
  static float quantize(const float* x, int n, const Put& put) {
    std::uint32_t bits = 0;  // without their sign, bits order like the numbers, NaN above all
    for (int i = 0; i < n; ++i) {
      const std::uint32_t magnitude = shoal::bits_of(x[i]) & 0x7fffffffu;
      bits = bits > magnitude ? bits : magnitude;
    }
    const float largest = shoal::float_of(bits);
    const bool finite = bits < 0x7f800000u;
    const float inverse = finite && largest >= 1e-30f ? 127.0f / largest : 0.0f;
    for (int i = 0; i < n; ++i)  // 1.5 * 2^23 leaves the rounded number in the low bits
      put(i, static_cast<std::int8_t>(shoal::bits_of(x[i] * inverse + 12582912.0f)));
    return finite ? largest / 127.0f : NAN;
  }
};

template <class Panel>
void store_kv(const shoal::StoreKvArgs& a) {
  KvLayout<Panel>::store(a);
}

}  // namespace
