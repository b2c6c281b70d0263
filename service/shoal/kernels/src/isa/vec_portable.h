// Four float lanes with the compiler's vector extension: SSE2 on x86-64, NEON on ARM.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "isa/kernels.h"

namespace {

struct Vec {
  static constexpr int width = 4;
  static constexpr int max_rows = 3;
  static constexpr int panels_for(int) { return 1; }
  static constexpr int max_rows_bf16 = 3, max_rows_int8 = 3, max_rows_int16 = 3;
  static constexpr int panels_for_bf16(int) { return 1; }
  static constexpr int panels_for_int8(int) { return 1; }
  static constexpr int max_rows_int4 = 3, sums_beside_int_groups = 0;
  static constexpr int panels_for_int4(int) { return 1; }
  static constexpr int panels_for_int16(int) { return 1; }
  static constexpr shoal::Format bf16_weights = shoal::Format::bf16;
  typedef float F __attribute__((vector_size(16)));
  typedef std::int32_t I __attribute__((vector_size(16)));
  struct Quad {  // four neighbouring inputs of a row, each in every lane
    I input[4];
  };
  using Int8 = I;

  static F zero() { return F{0, 0, 0, 0}; }
  static F set(float x) { return F{x, x, x, x}; }
  static F load(const float* p) {
    F r;
    std::memcpy(&r, p, sizeof r);
    return r;
  }
  static void store(float* p, F x) { std::memcpy(p, &x, sizeof x); }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
#if defined(__FP_FAST_FMAF)
  static F fma(F a, F b, F c) {
    F r;
    for (int i = 0; i < 4; ++i) r[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return r;
  }
#else  // two roundings; contraction is switched off for the whole library
  static F fma(F a, F b, F c) { return a * b + c; }
#endif
  static F blend(I mask, F a, F b) {
    return reinterpret_cast<F>((mask & reinterpret_cast<I>(a)) | (~mask & reinterpret_cast<I>(b)));
  }
  static F min(F a, F b) { return blend(a < b, a, b); }  // NaN in b stays NaN
  static F max(F a, F b) { return blend(a > b, a, b); }
  static F zero_if_less(F x, F limit, F y) { return blend(x < limit, zero(), y); }
  static F select(std::uint32_t bits, F x, F y) {
    const std::int32_t set = static_cast<std::int32_t>(bits);
    return blend((I{set, set, set, set} & I{1, 2, 4, 8}) != 0, x, y);
  }
  static F round(F x) {  // |x| < 2^22; to nearest, ties to even
    const F magic = set(12582912.0f);
    return (x + magic) - magic;
  }
  static F pow2(F n) {
    const I i = __builtin_convertvector(n, I);
    return reinterpret_cast<F>((i + 127) << 23);
  }

  static I load_word(const void* p) {
    I r;
    std::memcpy(&r, p, sizeof r);
    return r;
  }
  static F low_bf16(I w) { return reinterpret_cast<F>(w << 16); }
  static F high_bf16(I w) { return reinterpret_cast<F>(w & ~0xffff); }
  static F load_int8(const char* p) {
    std::int8_t x[4];
    std::memcpy(x, p, sizeof x);
    return to_float(I{x[0], x[1], x[2], x[3]});
  }

  static F load_f16(const void* p) {  // finite ones
    typedef std::uint16_t Halves __attribute__((vector_size(8)));
    Halves halves;
    std::memcpy(&halves, p, sizeof halves);
    const I h = __builtin_convertvector(halves, I);
    const F magnitude = reinterpret_cast<F>((h & 0x7fff) << 13) * set(0x1p112f);
    return reinterpret_cast<F>(reinterpret_cast<I>(magnitude) | (h & 0x8000) << 16);
  }
  static I low_halves(I w) { return w & 0x0f0f0f0f; }
  static I high_halves(I w) { return (w >> 4) & 0x0f0f0f0f; }
  static Quad quad(const std::int8_t* x) {
    Quad q;
    for (int i = 0; i < 4; ++i) q.input[i] = I{x[i], x[i], x[i], x[i]};
    return q;
  }
  static I first_int4(I w, const Quad& x) { return dot_int8(no_sum(), w, x); }
  static I dot_int4(I acc, I w, const Quad& x) { return dot_int8(acc, w, x); }
  template <class Group>
  static F end_int4(I acc, const Group& x) { return mul(to_float(acc), set(x.scale)); }
  template <class Group>
  static F end_int8(I acc, const Group& x) { return mul(to_float(acc), set(x.scale)); }
  static std::int32_t int8_start(int) { return 0; }
  static std::int32_t group_end(int) { return 0; }
  static Int8 int8(I w) { return w; }
  static I first_int8(std::int32_t, Int8 w, const Quad& x) {
    return dot_int8(no_sum(), w, x);
  }
  static I dot_int8(I acc, Int8 w, const Quad& x) {
    acc += ((w << 24) >> 24) * x.input[0];
    acc += ((w << 16) >> 24) * x.input[1];
    acc += ((w << 8) >> 24) * x.input[2];
    return acc + (w >> 24) * x.input[3];
  }

  static I broadcast_word(const void* p) {
    std::int32_t word;
    std::memcpy(&word, p, 4);
    return I{word, word, word, word};
  }
  static I no_sum() { return I{0, 0, 0, 0}; }
  static I dot_int16(I acc, I w, I x) {
    return acc + ((w << 16) >> 16) * ((x << 16) >> 16) + (w >> 16) * (x >> 16);
  }
  static F to_float(I x) { return __builtin_convertvector(x, F); }
};

}  // namespace
