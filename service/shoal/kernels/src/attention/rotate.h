// One head of queries or keys [head_dim]: its limits, its norm, rotary positions, the attention
// scale. In place. Called by model/attention.cpp.
#pragma once
#include <cmath>

#include "isa/kernels.h"

namespace {

inline void norm_head(float* head, int head_dim, const shoal::HeadNorm& norm) {
  const float size = static_cast<float>(head_dim);
  if (norm.kind == shoal::NormKind::layer) {
    float total = 0.0f;
    for (int i = 0; i < head_dim; ++i) total += head[i];
    const float mean = total / size;
    for (int i = 0; i < head_dim; ++i) head[i] -= mean;
  }
  float sum = 0.0f;
  for (int i = 0; i < head_dim; ++i) sum += head[i] * head[i];
  const float factor = 1.0f / std::sqrt(sum / size + norm.eps);
  for (int i = 0; i < head_dim; ++i) head[i] = norm.weight[i] * (head[i] * factor);
  if (norm.bias)
    for (int i = 0; i < head_dim; ++i) head[i] += norm.bias[i];
}

inline void turn(float* head, const shoal::Rotation& r) {
  const float *cosines = r.cos_sin, *sines = r.cos_sin + r.half;
  if (r.interleaved)
    for (int i = 0; i < r.half; ++i) {
      const float a = head[2 * i], b = head[2 * i + 1];
      head[2 * i] = a * cosines[i] - b * sines[i];
      head[2 * i + 1] = b * cosines[i] + a * sines[i];
    }
  else
    for (int i = 0; i < r.half; ++i) {
      const float a = head[i], b = head[i + r.half];
      head[i] = a * cosines[i] - b * sines[i];
      head[i + r.half] = b * cosines[i] + a * sines[i];
    }
}

void rotate(float* head, int head_dim, const shoal::HeadNorm& norm, const shoal::Rotation& rotation,
            float scale) {
  if (norm.weight && !norm.after_rotary) norm_head(head, head_dim, norm);
  if (rotation.cos_sin) turn(head, rotation);
  if (norm.weight && norm.after_rotary) norm_head(head, head_dim, norm);
  if (scale != 1.0f)
    for (int i = 0; i < head_dim; ++i) head[i] *= scale;
}

void clip(float* x, int n, float limit) {
  for (int i = 0; i < n; ++i) x[i] = x[i] > limit ? limit : x[i] < -limit ? -limit : x[i];
}

}  // namespace
