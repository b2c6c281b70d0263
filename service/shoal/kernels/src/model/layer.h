// The weights of a layer and of the rotary tables, as a step reads them. Owned by model/model.h.
#pragma once
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
    weight.resize(round_up(width, kPanel));
    if (config->has_bias) bias.resize(weight.size());
  }
  bool exists() const { return !weight.empty(); }
  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
  HeadNorm of_head() const {
    return {kind, eps, exists() ? weight.data() : nullptr, bias_or_null()};
  }

  NormKind kind = NormKind::rms;
  float eps = 0.0f, weight_offset = 0.0f;
  std::vector<float> weight, bias;  // padded with zeros to a multiple of 16; weight offset included
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

// Where a layer's keys and values lie: [block][KV head][K panel, V panels] from `offset` on; of a
// convolution [block][values per block][hidden_size].
struct KvPlace {
  std::size_t offset = 0, k_bytes = 0, head_bytes = 0, block_bytes = 0;
};

struct Layer {
  AttentionConfig attention{};
  std::optional<ShortConvConfig> conv;
  MlpConfig mlp{};
  bool parallel = false;
  Norm attention_norm, attention_post_norm, mlp_norm, mlp_post_norm, q_norm, k_norm;
  // Of a convolution qkv gives b, c and x, output reads c * conv(b * x).
  PackedMatrix qkv, output, up, down;  // up: gate and up in turn, 16 outputs each, where gated
  std::vector<float> conv_taps, conv_bias;  // [kernel_size, hidden_size]; bias may be empty
  int rotary = -1;                     // which table; -1: positions do not turn
  KvPlace kv;

  // Of the MLP's input; in a parallel layer without one of its own it is what attention reads.
  const Norm& mlp_input_norm() const {
    return parallel && !mlp_norm.exists() ? attention_norm : mlp_norm;
  }
};

}  // namespace shoal
