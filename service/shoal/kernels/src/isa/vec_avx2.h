// Eight float lanes: AVX2, FMA and F16C; with SHOAL_AVXVNNI_SET also AVX-VNNI. Sixteen registers,
// so a tile is at most 6 rows by 2 vectors.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "formats/numbers.h"
#include "isa/kernels.h"

namespace {

struct Vec {
  static constexpr int width = 8;
  static constexpr int max_rows = 6;
  // Eight sums in flight hide the latency of FMA: fewer rows take more panels at once.
  static constexpr int panels_for(int rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }
  // Taking bf16 apart needs registers too, so its tiles are smaller.
  static constexpr int max_rows_bf16 = 5, max_rows_int16 = 6;
#if defined(SHOAL_AVXVNNI_SET)
  static constexpr int max_rows_int8 = 4, max_rows_int4 = 4;
#else
  static constexpr int max_rows_int8 = 6, max_rows_int4 = 6;
#endif
  static constexpr int sums_beside_int_groups = 4;  // in registers
  static constexpr int panels_for_int4(int rows) { return rows <= 2 ? 2 : 1; }
  static constexpr int panels_for_bf16(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
  static constexpr int panels_for_int8(int rows) { return rows <= 2 ? 2 : 1; }
  static constexpr int panels_for_int16(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
  // twice the products of an FMA per instruction
  static constexpr shoal::Format bf16_weights = shoal::Format::int16_block;
  using F = __m256;
  using I = __m256i;
  using Quad = I;  // four neighbouring inputs of a row, in every lane
  static F zero() { return _mm256_setzero_ps(); }
  static F set(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }  // NaN in b stays NaN
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F zero_if_less(F x, F limit, F y) {
    return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), y);
  }
  static F select(std::uint32_t bits, F x, F y) {
    const I bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const I set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), bit);
    return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit)));
  }
  static F round(F x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static F pow2(F n) {
    const I i = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(i, 23));
  }

  static I load_word(const void* p) { return _mm256_loadu_si256(static_cast<const I*>(p)); }
  static F low_bf16(I w) { return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16)); }
  static F high_bf16(I w) {
    return _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32(~0xffff)));
  }
  static F load_int8(const char* p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }

  static F load_f16(const void* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static I low_halves(I w) { return _mm256_and_si256(w, _mm256_set1_epi8(15)); }
  static I high_halves(I w) {
    return _mm256_and_si256(_mm256_srli_epi16(w, 4), _mm256_set1_epi8(15));
  }
  static Quad quad(const std::int8_t* x) { return broadcast_word(x); }
#if defined(SHOAL_AVXVNNI_SET)
  // As in vec_avx512.h.
  static constexpr std::int32_t kStart = 0x4b400000;
  static std::int32_t int8_start(int total) { return kStart - 128 * total; }
  static std::int32_t group_end(int scale) {
    return static_cast<std::int32_t>(shoal::bits_of(-12582912.0f * static_cast<float>(scale)));
  }
  static I dot_int4(I acc, I w, Quad x) { return _mm256_dpbusd_avx_epi32(acc, w, x); }
  static I first_int4(I w, Quad x) { return dot_int4(_mm256_set1_epi32(kStart), w, x); }
  static I first_int8(std::int32_t start, I w, Quad x) {
    return dot_int8(_mm256_set1_epi32(start), w, x);
  }
  template <class Group>
  static F end_int4(I acc, const Group& x) {
    return fma(_mm256_castsi256_ps(acc), set(x.scale),
               _mm256_castsi256_ps(broadcast_word(&x.end)));
  }
  template <class Group>
  static F end_int8(I acc, const Group& x) { return end_int4(acc, x); }
  using Int8 = I;
  static Int8 int8(I w) { return _mm256_xor_si256(w, _mm256_set1_epi8(static_cast<char>(0x80))); }
  static I dot_int8(I acc, Int8 w, Quad x) { return _mm256_dpbusd_avx_epi32(acc, w, x); }
#else
  // A group's products fit 16 bits: 32 / 2 * 15 * 127 < 2^15.
  static I dot_int4(I acc, I w, Quad x) {  // by hand like dot_int16
    I products;
    asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
        : "+x"(acc), "=&x"(products)
        : "x"(w), "xm"(x));
    return acc;
  }
  static I first_int4(I w, Quad x) { return _mm256_maddubs_epi16(w, x); }
  // Times the row's scale while still an integer: 2^16 * 2^14 < 2^31. The scale stands in both
  // halves of the word.
  static std::int32_t group_end(int scale) { return scale | scale << 16; }
  static std::int32_t int8_start(int) { return 0; }
  template <class Group>
  static F end_int4(I acc, const Group& x) {
    return to_float(_mm256_madd_epi16(acc, broadcast_word(&x.end)));
  }
  template <class Group>
  static F end_int8(I acc, const Group& x) { return mul(to_float(acc), set(x.scale)); }
  // vpmaddubsw wants an unsigned factor: |w| * (x with the sign of w). With |w| <= 128 and |x| <=
  // 127 a pair is at most 32512 and never saturates.
  struct Int8 {
    I value, magnitude;
  };
  static Int8 int8(I w) { return {w, _mm256_abs_epi8(w)}; }
  static I first_int8(std::int32_t, const Int8& w, Quad x) {
    const I pairs = _mm256_maddubs_epi16(w.magnitude, _mm256_sign_epi8(x, w.value));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  static I dot_int8(I acc, const Int8& w, Quad x) {
    I products;
    asm("vpsignb %3, %4, %1\n\tvpmaddubsw %1, %2, %1\n\tvpmaddwd %5, %1, %1\n\t"
        "vpaddd %1, %0, %0"
        : "+x"(acc), "=&x"(products)
        : "x"(w.magnitude), "xm"(w.value), "x"(x), "xm"(_mm256_set1_epi16(1)));
    return acc;
  }
#endif

  static I broadcast_word(const void* p) {
    std::int32_t word;
    std::memcpy(&word, p, 4);
    return _mm256_set1_epi32(word);
  }
  static I no_sum() { return _mm256_setzero_si256(); }
  // By hand: a compiler keeps both the old and the new sum, and spills them.
  static I dot_int16(I acc, I w, I x) {
    I products;
    asm("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(products) : "xm"(w), "x"(x));
    return acc;
  }
  static F to_float(I x) { return _mm256_cvtepi32_ps(x); }
};

}  // namespace
