// What the sampler and the head compute over a row of logits. Called by sampling/ and
// model/head.cpp.
#pragma once
#include "rowwise/vector_math.h"

namespace {

float sum_exp(const float* x, float max, int groups) {
  Lanes sum;
  for (int j = 0; j < kVecs; ++j) sum.at[j] = Vec::zero();
  for (int i = 0; i < groups; ++i)
    for (int j = 0; j < kVecs; ++j)
      sum.at[j] = Vec::add(
          sum.at[j], vexp(Vec::sub(Vec::load(x + i * kPanel + j * Vec::width), Vec::set(max))));
  return sum_lanes(sum);
}

void exp_shifted(const float* x, float max, float temperature, int spans, float* values,
                 float* weights, float* span_max, float* span_sum) {
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

void apply_mask(const float* x, const std::uint32_t* mask, int n, float* out) {
  const auto masked = [&](int first, int count) {
    const std::uint32_t word = mask[first / 32];
    for (int i = 0; i < count; ++i) out[first + i] = word >> i & 1 ? x[first + i] : -INFINITY;
  };
  const int whole = n / 32 * 32;
  for (int i = 0; i < whole; i += 32) masked(i, 32);
  if (whole < n) masked(whole, n - whole);
}

}  // namespace
