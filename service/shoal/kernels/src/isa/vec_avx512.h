// Sixteen float lanes: AVX-512 F, BW, DQ, VL; with SHOAL_VNNI also VNNI, with SHOAL_BF16 also bf16.
// Thirty-two registers: a tile is at most 6 rows by 4 panels.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "formats/numbers.h"
#include "isa/kernels.h"

namespace {

struct Vec {
  static constexpr int width = 16;
  static constexpr int max_rows = 6;
  static constexpr int panels_for(int rows) { return rows == 1 ? 8 : 4; }
  static constexpr int max_rows_bf16 = 6, max_rows_int8 = 6, max_rows_int16 = 6;
  static constexpr int panels_for_bf16(int rows) { return panels_for(rows); }
  static constexpr int panels_for_int8(int rows) { return rows == 1 ? 4 : 2; }
  static constexpr int max_rows_int4 = 6, sums_beside_int_groups = 12;  // in registers
  static constexpr int panels_for_int4(int rows) { return panels_for_int8(rows); }
  static constexpr int panels_for_int16(int rows) { return rows == 1 ? 4 : 2; }
#if defined(SHOAL_BF16)
  static constexpr shoal::Format bf16_weights = shoal::Format::bf16_packed12;
#else
  static constexpr shoal::Format bf16_weights = shoal::Format::int16_block;
#endif
  using F = __m512;
  using I = __m512i;

  static F zero() { return _mm512_setzero_ps(); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }  // NaN in b stays NaN
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F zero_if_less(F x, F limit, F y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), y);
  }
  // x[i] where bit i of the lowest is set, else y[i].
  static F select(std::uint32_t bits, F x, F y) {
    return _mm512_mask_mov_ps(y, static_cast<__mmask16>(bits), x);
  }
  static F round(F x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static F pow2(F n) {
    const I i = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(i, 23));
  }

  static I load_word(const void* p) { return _mm512_loadu_si512(p); }
  static F low_bf16(I w) { return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)); }
  static F high_bf16(I w) {
    return _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32(~0xffff)));
  }
  static F to_float(I x) { return _mm512_cvtepi32_ps(x); }
  static F load_int8(const char* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }

  static I broadcast_word(const void* p) {
    std::int32_t word;
    std::memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
  }
  static I no_sum() { return _mm512_setzero_si512(); }
#if defined(SHOAL_VNNI)
  static I dot_int16(I acc, I w, I x) { return _mm512_dpwssd_epi32(acc, w, x); }
#else
  static I dot_int16(I acc, I w, I x) { return _mm512_add_epi32(acc, _mm512_madd_epi16(w, x)); }
#endif

  static F load_f16(const void* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  static I low_halves(I w) { return _mm512_and_si512(w, _mm512_set1_epi8(15)); }
  static I high_halves(I w) {
    return _mm512_and_si512(_mm512_srli_epi16(w, 4), _mm512_set1_epi8(15));
  }
  using Quad = I;  // four neighbouring inputs of a row, in every lane
  static Quad quad(const std::int8_t* x) { return broadcast_word(x); }
#if defined(SHOAL_VNNI)
  // Sums of a group begin at the bits of 1.5 * 2^23, so read as floats they are that plus the sum,
  // exactly. One fma takes it away and multiplies by the scale, with the one rounding of a product.
  static constexpr std::int32_t kStart = 0x4b400000;
  static std::int32_t group_end(int scale) {
    return static_cast<std::int32_t>(shoal::bits_of(-12582912.0f * static_cast<float>(scale)));
  }
  template <class Group>
  static F end_int4(I acc, const Group& x) {
    return fma(_mm512_castsi512_ps(acc), set(x.scale), _mm512_castsi512_ps(broadcast_word(&x.end)));
  }
  template <class Group>
  static F end_int8(I acc, const Group& x) { return end_int4(acc, x); }
  static I first_int4(I w, Quad x) { return dot_int4(_mm512_set1_epi32(kStart), w, x); }
  static I dot_int4(I acc, I w, Quad x) { return _mm512_dpbusd_epi32(acc, w, x); }
  // vpdpbusd wants an unsigned factor: (w + 128) * x summed, less 128 * (sum of x).
  static std::int32_t int8_start(int total) { return kStart - 128 * total; }
  using Int8 = I;
  static Int8 int8(I w) { return _mm512_xor_si512(w, _mm512_set1_epi8(static_cast<char>(0x80))); }
  static I first_int8(std::int32_t start, Int8 w, Quad x) {
    return dot_int8(_mm512_set1_epi32(start), w, x);
  }
  static I dot_int8(I acc, Int8 w, Quad x) { return _mm512_dpbusd_epi32(acc, w, x); }
#else
  // As in vec_avx2.h; AVX-512 has no vpsignb, a masked negation stands in (of weights that are zero
  // the sign does not matter).
  static I first_int4(I w, Quad x) { return _mm512_maddubs_epi16(w, x); }
  static I dot_int4(I acc, I w, Quad x) {
    return _mm512_add_epi16(acc, _mm512_maddubs_epi16(w, x));
  }
  // Times the row's scale while still an integer: 2^16 * 2^14 < 2^31. The scale stands in both
  // halves of the word.
  static std::int32_t group_end(int scale) { return scale | scale << 16; }
  static std::int32_t int8_start(int) { return 0; }
  template <class Group>
  static F end_int4(I acc, const Group& x) {
    return to_float(_mm512_madd_epi16(acc, broadcast_word(&x.end)));
  }
  template <class Group>
  static F end_int8(I acc, const Group& x) { return mul(to_float(acc), set(x.scale)); }
  struct Int8 {
    I magnitude;
    __mmask64 negative;
  };
  static Int8 int8(I w) { return {_mm512_abs_epi8(w), _mm512_movepi8_mask(w)}; }
  static I first_int8(std::int32_t, const Int8& w, Quad x) {
    return dot_int8(no_sum(), w, x);
  }
  static I dot_int8(I acc, const Int8& w, Quad x) {
    const I sign = _mm512_mask_sub_epi8(x, w.negative, _mm512_setzero_si512(), x);
    const I pairs = _mm512_maddubs_epi16(w.magnitude, sign);
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  }
#endif
#if defined(SHOAL_BF16)
  // One pair of inputs of a bf16_packed12 group, as bf16 whose exponents are the 4 bits alone.
  template <int Pair>
  static I unpack12(const char* group) {
    const I low = _mm512_cvtepi8_epi16(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + 64 + 32 * Pair)));
    const I nibbles = load_word(group);
    const I high = Pair < 2 ? _mm512_slli_epi16(nibbles, Pair < 2 ? 7 - 4 * Pair : 0)
                            : _mm512_srli_epi16(nibbles, Pair < 2 ? 0 : 4 * Pair - 7);
    const I kept = _mm512_set1_epi16(static_cast<short>(0x807f));
    const I sign_and_mantissa = _mm512_and_si512(low, kept);
    // a | (b & c)
    return _mm512_ternarylogic_epi32(sign_and_mantissa, high, _mm512_set1_epi16(0x0780), 0xf8);
  }

  // Products of pairs of bf16 (k, k+1), added to the sums.
  static F dot_bf16(F acc, I w, I x) {
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
  }
#endif
};

}  // namespace
