// Norms, activations and sums of one row, padded with zeros to a multiple of 16. Called by model/.
#pragma once
#include "rowwise/vector_math.h"

namespace {

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

void rms_norm(const float* x, const float* weight, const float* bias, float eps, int width,
              float* out) {
  const int padded = shoal::round_up(width, kPanel);
  const float mean = sum_squares(x, padded / kPanel) / static_cast<float>(width);
  const typename Vec::F scale = Vec::set(1.0f / std::sqrt(mean + eps));
  for (int i = 0; i < padded; i += Vec::width)
    Vec::store(out + i, Vec::mul(Vec::load(weight + i), Vec::mul(Vec::load(x + i), scale)));
  if (!bias) return;
  for (int i = 0; i < padded; i += Vec::width)
    Vec::store(out + i, Vec::add(Vec::load(out + i), Vec::load(bias + i)));
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
                                 bias ? Vec::load(bias + i) : Vec::zero()));
}

SHOAL_INLINE typename Vec::F activated(typename Vec::F x, shoal::Activation act) {
  using V = Vec;
  switch (act) {
    case shoal::Activation::silu:
      return V::div(x, V::add(V::set(1.0f), vexp(V::sub(V::zero(), x))));
    case shoal::Activation::relu: return V::max(V::zero(), x);
    case shoal::Activation::relu2: {
      const typename V::F positive = V::max(V::zero(), x);
      return V::mul(positive, positive);
    }
    case shoal::Activation::gelu_tanh: {
      const typename V::F cube = V::mul(V::mul(x, x), x);
      const typename V::F inner =
          V::mul(V::set(0.7978845608f), V::fma(V::set(0.044715f), cube, x));
      return V::mul(V::mul(V::set(0.5f), x), V::add(V::set(1.0f), vtanh(inner)));
    }
    default: break;
  }
  // gelu; where erf is -1 in float32 it is 0, not a rest of rounding times a large x
  const typename V::F share = V::add(V::set(1.0f), verf(V::mul(x, V::set(0.70710678f))));
  return V::zero_if_less(x, V::set(-5.6f), V::mul(V::mul(V::set(0.5f), x), share));
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

void add(const float* x, int groups, float factor, float* sum) {
  const typename Vec::F times = Vec::set(factor);
  for (int i = 0; i < groups * kPanel; i += Vec::width)
    Vec::store(sum + i, Vec::add(Vec::load(sum + i), Vec::mul(times, Vec::load(x + i))));
}

void scale(float* x, int groups, float factor) {
  const typename Vec::F times = Vec::set(factor);
  for (int i = 0; i < groups * kPanel; i += Vec::width)
    Vec::store(x + i, Vec::mul(times, Vec::load(x + i)));
}

void soft_cap(float* x, int groups, float cap) {
  const typename Vec::F limit = Vec::set(cap);
  for (int i = 0; i < groups * kPanel; i += Vec::width)
    Vec::store(x + i, Vec::mul(limit, vtanh(Vec::div(Vec::load(x + i), limit))));
}

}  // namespace
