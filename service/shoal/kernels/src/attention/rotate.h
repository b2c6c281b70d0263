// One head of queries or keys [head_dim]: its norm, rotary positions, the attention scale. In
// place. Called by model/attention.cpp.
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

void rotate(float* head, int head_dim, const shoal::HeadNorm& norm, const float* cos_sin, int half,
            float scale) {
  if (norm.weight) norm_head(head, head_dim, norm);
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

}  // namespace
