// The weights of a layer and of the rotary tables, as a step reads them. Owned by model/model.h.
#pragma once
#include <algorithm>
#include <optional>
#include <vector>

#include "linear/packed_matrix.h"
#include "memory/region.h"
#include "model/config.h"

namespace shoal {

// Absent while `weight` is empty: then x is used as it is.
struct Norm {
  Norm() = default;
  Norm(const std::optional<NormConfig>& config, int width) {
    if (!config) return;
    kind = config->kind;
    eps = config->eps;
    weight_offset = config->weight_offset;
    has_weight = config->has_weight;
    weight.resize(round_up(width, kPanel));
    if (!has_weight) std::fill_n(weight.begin(), width, 1.0f);
    if (config->has_bias) bias.resize(weight.size());
  }
  bool exists() const { return !weight.empty(); }
  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }

  NormKind kind = NormKind::rms;
  float eps = 0.0f, weight_offset = 0.0f;
  bool has_weight = true;  // otherwise all are 1
  std::vector<float> weight, bias;  // padded with zeros to a multiple of 16; weight offset included
};

// The norm of queries or keys.
struct QKNorm : Norm {
  QKNorm() = default;
  QKNorm(const std::optional<QKNormConfig>& config, int num_heads, int head_dim)
      : Norm(config ? std::optional(config->norm) : std::nullopt,
             config && (config->over_all || config->weight_per_head) ? num_heads * head_dim
                                                                     : head_dim) {
    if (!config) return;
    after_rotary = config->after_rotary;
    if (config->weight_per_head) head_stride = head_dim;
  }
  HeadNorm of_head(int head) const {
    const int at = head * head_stride;
    return {kind, eps, exists() ? weight.data() + at : nullptr,
            bias.empty() ? nullptr : bias.data() + at, after_rotary};
  }

  bool after_rotary = false;
  int head_stride = 0;  // weights from one head's to the next one's
};

// Cosines and sines of every position so far, shared by the layers that turn alike:
// [position][half cosines, half sines].
class RotaryTable {
 public:
  RotaryTable(const RotaryConfig& config, int max_positions);
  void fill(int last_position);
  const float* at(int position) const {
    return table_.as<float>() + static_cast<std::size_t>(position) * 2 * half();
  }
  int half() const { return static_cast<int>(config_.inv_freq.size()); }
  const RotaryConfig& config() const { return config_; }

 private:
  RotaryConfig config_;
  Region table_;
  int filled_ = 0;
};

// Where a layer's keys and values lie in a block of all layers: [KV head][K panel, V panels, scales
// of int8] from `offset` on; of a convolution [values per block][hidden_size].
struct KvPlace {
  std::size_t offset = 0, k_bytes = 0, scales_offset = 0, head_bytes = 0;
};

struct Expert {
  int intermediate_size = 0;
  PackedMatrix up, down;  // as in a Layer
};

struct Layer {
  AttentionConfig attention{};
  std::optional<ShortConvConfig> conv;
  MlpConfig mlp{};
  bool parallel = false;
  bool post_norm_of_sum = false;
  float residual_multiplier = 1.0f;
  Norm attention_norm, attention_post_norm, mlp_norm, mlp_post_norm;
  QKNorm q_norm, k_norm;
  // Of a convolution qkv gives b, c and x, output reads c * conv(b * x).
  PackedMatrix qkv, output, up, down;  // up: gate and up in turn, 16 outputs each, where gated
  std::vector<float> conv_taps, conv_bias;  // [kernel_size, hidden_size]; bias may be empty
  PackedMatrix router;          // instead of up and down; behind it the shared gate
  std::vector<Expert> experts;  // the shared one last
  int rotary = -1;              // which table; -1: positions do not turn
  KvPlace kv;

  // Of the MLP's input; in a parallel layer without one of its own it is what attention reads.
  const Norm& mlp_input_norm() const {
    return parallel && !mlp_norm.exists() ? attention_norm : mlp_norm;
  }
};

}  // namespace shoal
