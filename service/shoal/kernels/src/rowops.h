// Operations on one row: norms, activations, rotation, number formats, softmax sums.
// Sums run in 16 lanes and then down a fixed tree, whatever the vector width.
#pragma once
#include <cmath>

#include "tiles.h"

namespace {

SHOAL_INLINE typename Vec::F vexp(typename Vec::F x0) {  // Cephes expf; 0 below -87.3
  using V = Vec;
  typename V::F x = V::min(V::set(88.0f), x0);
  x = V::max(V::set(-87.3f), x);
  const typename V::F n = V::round(V::mul(x, V::set(1.44269504f)));
  typename V::F r = V::fma(n, V::set(-0.693359375f), x);
  r = V::fma(n, V::set(2.12194440e-4f), r);
  typename V::F p = V::set(1.9875691500e-4f);
  p = V::fma(p, r, V::set(1.3981999507e-3f));
  p = V::fma(p, r, V::set(8.3334519073e-3f));
  p = V::fma(p, r, V::set(4.1665795894e-2f));
  p = V::fma(p, r, V::set(1.6666665459e-1f));
  p = V::fma(p, r, V::set(5.0000001201e-1f));
  p = V::add(V::fma(p, V::mul(r, r), r), V::set(1.0f));
  return V::zero_if_less(x0, V::set(-87.3f), V::mul(p, V::pow2(n)));
}

SHOAL_INLINE typename Vec::F vtanh(typename Vec::F x) {  // absolute error about 1e-7
  const typename Vec::F e = vexp(Vec::add(x, x));
  return Vec::sub(Vec::set(1.0f), Vec::div(Vec::set(2.0f), Vec::add(e, Vec::set(1.0f))));
}

struct Lanes {
  typename Vec::F at[kVecs];
};

SHOAL_INLINE float sum_lanes(const Lanes& lanes) {
  float s[kPanel];
  for (int j = 0; j < kVecs; ++j) Vec::store(s + j * Vec::width, lanes.at[j]);
  for (int step = kPanel / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) s[i] += s[i + step];
  return s[0];
}

inline float sum_squares(const float* x, int groups) {
  Lanes sum;
  for (int j = 0; j < kVecs; ++j) sum.at[j] = Vec::zero();
  for (int i = 0; i < groups; ++i)
    for (int j = 0; j < kVecs; ++j) {
      const typename Vec::F v = Vec::load(x + i * kPanel + j * Vec::width);
      sum.at[j] = Vec::fma(v, v, sum.at[j]);
    }
  return sum_lanes(sum);
}

void rms_norm(const float* x, const float* weight, float eps, int width, float* out) {
  const int padded = shoal::round_up(width, kPanel);
  const float mean = sum_squares(x, padded / kPanel) / static_cast<float>(width);
  const typename Vec::F scale = Vec::set(1.0f / std::sqrt(mean + eps));
  for (int i = 0; i < padded; i += Vec::width)
    Vec::store(out + i, Vec::mul(Vec::load(weight + i), Vec::mul(Vec::load(x + i), scale)));
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int width,
                float* out) {
  const int padded = shoal::round_up(width, kPanel);
  Lanes sum;
  for (int j = 0; j < kVecs; ++j) sum.at[j] = Vec::zero();
  for (int i = 0; i < padded; i += kPanel)
    for (int j = 0; j < kVecs; ++j)
      sum.at[j] = Vec::add(sum.at[j], Vec::load(x + i + j * Vec::width));
  const typename Vec::F mean = Vec::set(sum_lanes(sum) / static_cast<float>(width));
  for (int i = 0; i < padded; i += Vec::width)
    Vec::store(out + i, Vec::sub(Vec::load(x + i), mean));
  for (int i = width; i < padded; ++i) out[i] = 0.0f;
  const float variance = sum_squares(out, padded / kPanel) / static_cast<float>(width);
  const typename Vec::F scale = Vec::set(1.0f / std::sqrt(variance + eps));
  for (int i = 0; i < padded; i += Vec::width)
    Vec::store(out + i, Vec::fma(Vec::mul(Vec::load(out + i), scale), Vec::load(weight + i),
                                 Vec::load(bias + i)));
}

void rotate(float* head, int head_dim, const float* norm_weight, float eps, const float* cos_sin,
            int half, float scale) {
  if (norm_weight) {
    float sum = 0.0f;
    for (int i = 0; i < head_dim; ++i) sum += head[i] * head[i];
    const float factor = 1.0f / std::sqrt(sum / static_cast<float>(head_dim) + eps);
    for (int i = 0; i < head_dim; ++i) head[i] = norm_weight[i] * (head[i] * factor);
  }
  if (cos_sin)
    for (int i = 0; i < half; ++i) {
      const float a = head[i], b = head[i + half];
      const float c = cos_sin[i], s = cos_sin[half + i];
      head[i] = a * c - b * s;
      head[i + half] = b * c + a * s;
    }
  if (scale != 1.0f)
    for (int i = 0; i < head_dim; ++i) head[i] *= scale;
}

SHOAL_INLINE typename Vec::F activated(typename Vec::F x, shoal::Activation act) {
  using V = Vec;
  switch (act) {
    case shoal::Activation::silu:
      return V::div(x, V::add(V::set(1.0f), vexp(V::sub(V::zero(), x))));
    case shoal::Activation::relu: return V::max(V::zero(), x);
    case shoal::Activation::gelu_tanh: {
      const typename V::F cube = V::mul(V::mul(x, x), x);
      const typename V::F inner =
          V::mul(V::set(0.7978845608f), V::fma(V::set(0.044715f), cube, x));
      return V::mul(V::mul(V::set(0.5f), x), V::add(V::set(1.0f), vtanh(inner)));
    }
    default: break;
  }
  float lanes[V::width];
  V::store(lanes, x);
  for (float& v : lanes) v = 0.5f * v * (1.0f + std::erf(v * 0.70710678f));
  return V::load(lanes);
}

void gated(const float* pairs, int groups, shoal::Activation act, float* out) {
  for (int i = 0; i < groups; ++i)
    for (int j = 0; j < kPanel; j += Vec::width) {
      const typename Vec::F gate = activated(Vec::load(pairs + 2 * i * kPanel + j), act);
      Vec::store(out + i * kPanel + j,
                 Vec::mul(gate, Vec::load(pairs + (2 * i + 1) * kPanel + j)));
    }
}

void activate(float* x, int groups, shoal::Activation act) {
  for (int i = 0; i < groups * kPanel; i += Vec::width)
    Vec::store(x + i, activated(Vec::load(x + i), act));
}

inline std::uint16_t bf16_of(float x) {  // to nearest, ties to even; NaN stays NaN
  std::uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

void to_bf16(const float* x, int padded, std::uint16_t* out) {
  for (int i = 0; i < padded; ++i) out[i] = bf16_of(x[i]);
}

void to_raised_bf16(const float* x, int padded, std::uint16_t* out) {
  for (int i = 0; i < padded; ++i) out[i] = bf16_of(x[i] * 0x1p96f);
  static_assert(shoal::kRaise == 96, "the factor");
}

SHOAL_INLINE float max_lanes(const Lanes& lanes) {
  float s[kPanel];
  for (int j = 0; j < kVecs; ++j) Vec::store(s + j * Vec::width, lanes.at[j]);
  float m = s[0];
  for (int i = 1; i < kPanel; ++i) m = m > s[i] ? m : s[i];
  return m;
}

inline float max_of(const float* x, int groups) {
  Lanes best;
  for (int j = 0; j < kVecs; ++j) best.at[j] = Vec::load(x + j * Vec::width);
  for (int i = 1; i < groups; ++i)
    for (int j = 0; j < kVecs; ++j)
      best.at[j] = Vec::max(best.at[j], Vec::load(x + i * kPanel + j * Vec::width));
  return max_lanes(best);
}

inline std::uint32_t bits_of(float x) {
  std::uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}

float to_int8(const float* x, int padded, std::int8_t* out) {
  std::uint32_t bits = 0;  // without their sign, bits order like the numbers, NaN above all
  for (int i = 0; i < padded; ++i) {
    const std::uint32_t a = bits_of(x[i]) & 0x7fffffffu;
    bits = bits > a ? bits : a;
  }
  float largest;
  __builtin_memcpy(&largest, &bits, 4);
  const bool finite = bits < 0x7f800000u;
  const float inverse = finite && largest >= 1e-30f ? 127.0f / largest : 0.0f;
  for (int i = 0; i < padded; ++i)  // adding 1.5 * 2^23 leaves the rounded number in the low bits
    out[i] = static_cast<std::int8_t>(bits_of(x[i] * inverse + 12582912.0f));
  return finite ? largest / 127.0f : NAN;
}

// One block of a fixed16 row; gives its scale.
SHOAL_INLINE float to_fixed_block(const float* x, std::int16_t* out) {
  constexpr int kBlock = shoal::kFixedBlock;
  std::uint32_t bits = 0;
  for (int i = 0; i < kBlock; ++i) {
    const std::uint32_t magnitude = bits_of(x[i]) & 0x7fffffffu;
    bits = bits > magnitude ? bits : magnitude;
  }
  float largest;
  __builtin_memcpy(&largest, &bits, 4);
  const bool finite = bits < 0x7f800000u;
  const float inverse = finite && largest >= 1e-30f ? shoal::kFixedMax / largest : 0.0f;
  for (int i = 0; i < kBlock; ++i)  // as in to_int8
    out[i] = static_cast<std::int16_t>(bits_of(x[i] * inverse + 12582912.0f));
  return finite ? largest * (1.0f / shoal::kFixedMax) : NAN;
}

void to_fixed16(const float* x, int padded, char* out) {
  constexpr int kBlock = shoal::kFixedBlock;
  const int whole = padded / kBlock, blocks = shoal::round_up(padded, kBlock) / kBlock;
  std::int16_t* integers = reinterpret_cast<std::int16_t*>(out);
  float* scales = reinterpret_cast<float*>(integers + blocks * kBlock);
  for (int b = 0; b < whole; ++b)
    scales[b] = to_fixed_block(x + b * kBlock, integers + b * kBlock);
  if (blocks == whole) return;
  alignas(64) float last[kBlock] = {};
  __builtin_memcpy(last, x + whole * kBlock, sizeof(float) * kPanel);
  scales[whole] = to_fixed_block(last, integers + whole * kBlock);
}

float sum_exp(const float* x, float max, int groups) {
  Lanes sum;
  for (int j = 0; j < kVecs; ++j) sum.at[j] = Vec::zero();
  for (int i = 0; i < groups; ++i)
    for (int j = 0; j < kVecs; ++j)
      sum.at[j] = Vec::add(
          sum.at[j], vexp(Vec::sub(Vec::load(x + i * kPanel + j * Vec::width), Vec::set(max))));
  return sum_lanes(sum);
}

void weigh(const float* x, float max, float temperature, int spans, float* values, float* weights,
           float* span_max, float* span_sum) {
  const typename Vec::F top = Vec::set(max), divisor = Vec::set(temperature);
  for (int s = 0; s < spans; ++s) {
    Lanes sum, best;
    for (int j = 0; j < kVecs; ++j) {
      sum.at[j] = Vec::zero();
      best.at[j] = Vec::set(-INFINITY);
    }
    for (int i = s * shoal::kSpan; i < (s + 1) * shoal::kSpan; i += kPanel)
      for (int j = 0; j < kVecs; ++j) {
        const int at = i + j * Vec::width;
        const typename Vec::F v = Vec::div(Vec::sub(Vec::load(x + at), top), divisor);
        const typename Vec::F e = vexp(v);
        Vec::store(values + at, v);
        Vec::store(weights + at, e);
        best.at[j] = Vec::max(best.at[j], v);
        sum.at[j] = Vec::add(sum.at[j], e);
      }
    span_max[s] = max_lanes(best);
    span_sum[s] = sum_lanes(sum);
  }
}

float sum_above(const float* weights, float limit, int spans) {
  const typename Vec::F least = Vec::set(limit);
  Lanes sum;
  for (int j = 0; j < kVecs; ++j) sum.at[j] = Vec::zero();
  for (int i = 0; i < spans * shoal::kSpan; i += kPanel)
    for (int j = 0; j < kVecs; ++j) {
      const typename Vec::F w = Vec::load(weights + i + j * Vec::width);
      sum.at[j] = Vec::add(sum.at[j], Vec::zero_if_less(w, least, w));
    }
  return sum_lanes(sum);
}

void span_max(const float* x, int spans, float* out) {
  for (int s = 0; s < spans; ++s) {
    // Never below -1 each, so the sum is NaN only if a logit is.
    typename Vec::F sum = Vec::zero();
    Lanes best;
    for (int j = 0; j < kVecs; ++j) best.at[j] = Vec::set(-INFINITY);
    for (int i = s * shoal::kSpan; i < (s + 1) * shoal::kSpan; i += kPanel)
      for (int j = 0; j < kVecs; ++j) {
        const typename Vec::F v = Vec::load(x + i + j * Vec::width);
        best.at[j] = Vec::max(best.at[j], v);
        sum = Vec::add(sum, Vec::max(Vec::set(-1.0f), v));
      }
    float lanes[Vec::width];
    Vec::store(lanes, sum);
    float all = 0.0f;
    for (const float lane : lanes) all += lane;
    out[s] = all == all ? max_lanes(best) : NAN;
  }
}

}  // namespace
