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

// Where some tokens are allowed only.
struct Masked {
  const std::uint32_t* mask;
  SHOAL_INLINE typename Vec::F load(const float* x, int at) const {
    return Vec::select(mask[at / 32] >> at % 32, Vec::load(x + at), Vec::set(-INFINITY));
  }
};

struct Unmasked {
  SHOAL_INLINE typename Vec::F load(const float* x, int at) const { return Vec::load(x + at); }
};

template <class Source>
SHOAL_INLINE void exp_shifted_from(const Source& source, const float* x, float max,
                                   float temperature, int spans, float* values, float* weights,
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
        const typename Vec::F v = Vec::div(Vec::sub(source.load(x, at), top), divisor);
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

void exp_shifted(const float* x, const std::uint32_t* mask, float max, float temperature,
                 int spans, float* values, float* weights, float* span_max, float* span_sum) {
  const auto from = [&](const auto& source) {
    exp_shifted_from(source, x, max, temperature, spans, values, weights, span_max, span_sum);
  };
  mask ? from(Masked{mask}) : from(Unmasked{});
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

template <class Source>
SHOAL_INLINE void span_max_from(const Source& source, const float* x, int spans, float* out) {
  for (int s = 0; s < spans; ++s) {
    // Never below -1 each, so the sum is NaN only if a logit is.
    typename Vec::F sum = Vec::zero();
    Lanes best;
    for (int j = 0; j < kVecs; ++j) best.at[j] = Vec::set(-INFINITY);
    for (int i = s * shoal::kSpan; i < (s + 1) * shoal::kSpan; i += kPanel)
      for (int j = 0; j < kVecs; ++j) {
        const typename Vec::F v = source.load(x, i + j * Vec::width);
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

void span_max(const float* x, const std::uint32_t* mask, int spans, float* out) {
  mask ? span_max_from(Masked{mask}, x, spans, out) : span_max_from(Unmasked{}, x, spans, out);
}

}  // namespace
