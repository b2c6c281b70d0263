// exp, tanh, erf, and sums and maxima of a row. Sums run in 16 lanes and then down a fixed tree,
// whatever the vector width. Included by rowwise/ and attention/.
#pragma once
#include <cmath>

#include "linear/accumulators.h"

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

// Absolute error below 4e-7. x * P(x^2) / Q(x^2) within +-4, fitted by weighted least squares to a
// relative error of 2.5e-8; beyond, its values there.
SHOAL_INLINE typename Vec::F verf(typename Vec::F x) {
  using V = Vec;
  x = V::max(V::set(-4.0f), V::min(V::set(4.0f), x));
  const typename V::F s = V::mul(x, x);
  typename V::F p = V::set(1.9868009e-6f);
  p = V::fma(p, s, V::set(2.8455761e-4f));
  p = V::fma(p, s, V::set(3.8830731e-3f));
  p = V::fma(p, s, V::set(5.3100906e-2f));
  p = V::fma(p, s, V::set(1.9353907e-1f));
  p = V::fma(p, s, V::set(1.1283791f));
  typename V::F q = V::set(3.7419930e-5f);
  q = V::fma(q, s, V::set(1.1855013e-3f));
  q = V::fma(q, s, V::set(1.5206711e-2f));
  q = V::fma(q, s, V::set(1.1534748e-1f));
  q = V::fma(q, s, V::set(5.0485212e-1f));
  q = V::fma(q, s, V::set(1.0f));
  return V::div(V::mul(x, p), q);
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

}  // namespace
