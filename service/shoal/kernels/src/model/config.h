// What the model is made of: `shoal.model.spec.DecoderSpec` in C++, under the same names. Filled in
// by bindings/spec.cpp, read by the rest of model/.
#pragma once
#include <algorithm>
#include <optional>
#include <vector>

#include "isa/kernels.h"

namespace shoal {

struct NormConfig {
  NormKind kind;
  float eps, weight_offset;
  bool has_bias, has_weight;
};

struct RotaryConfig {
  std::vector<float> inv_freq;  // radians per position of each rotated pair of channels
  float magnitude;              // factor on cosines and sines
  bool interleaved;             // pair i is channels 2i and 2i + 1; otherwise i and i + half
  bool operator==(const RotaryConfig& other) const {
    return inv_freq == other.inv_freq && magnitude == other.magnitude &&
           interleaved == other.interleaved;
  }
};

struct QKNormConfig {
  NormConfig norm;
  bool over_all;         // over all heads of a token together; otherwise over each
  bool weight_per_head;  // every head has weights of its own
  bool after_rotary;
};

struct AttentionConfig {
  int num_heads, num_kv_heads, head_dim;
  float scale;  // of scores
  std::optional<RotaryConfig> rotary;
  std::optional<QKNormConfig> qk_norm;
  int window;      // keys a token sees at most, itself included; 0 = all
  float soft_cap;  // of scores; 0 = off
  float clip_qkv;  // limit of queries, keys and values, before any norm; 0 = off
  bool clip_after_norm;  // of queries and keys
  bool causal;           // tokens see only themselves and those before them
  std::vector<float> alibi_slopes;  // [num_heads], or empty

  int query_size() const { return num_heads * head_dim; }
  int kv_size() const { return num_kv_heads * head_dim; }
  int group() const { return num_heads / num_kv_heads; }  // query heads of a KV head
  bool norms_all_heads() const { return qk_norm && qk_norm->over_all; }
};

struct ShortConvConfig {  // y = c * conv(b * x), of each channel by itself
  int kernel_size;
  // Tokens of a KV block whose b * x stays: the last ones of those that are computed.
  int values_per_block() const { return std::min(kernel_size - 1, kBlock); }
};

struct ExpertsConfig {
  int num_experts, num_experts_per_token;
  bool normalized;  // weights of the picked experts add up to one
  int shared_intermediate_size;  // of one more that every token meets; 0 = there is none
  bool shared_gate;

  bool has_shared() const { return shared_intermediate_size > 0; }
  int num_mlps() const { return num_experts + has_shared(); }
  int rows_per_token() const { return num_experts_per_token + has_shared(); }
};

struct MlpConfig {
  int intermediate_size;
  Activation activation;
  bool gated;
  std::optional<ExpertsConfig> experts;
};

struct LayerConfig {
  AttentionConfig attention;
  std::optional<ShortConvConfig> conv;  // mixes instead of attention
  MlpConfig mlp;
  std::optional<NormConfig> attention_norm, mlp_norm, attention_post_norm, mlp_post_norm;
  bool parallel;  // attention and MLP read the same residual
  bool post_norm_of_sum;  // post norms are of the residual with the branch in it
  float residual_multiplier;  // of each branch

  // Outputs of the mixer's first matrix, inputs of its last one.
  int mixer_in_size(int hidden) const {
    return conv ? 3 * hidden : attention.query_size() + 2 * attention.kv_size();
  }
  int mixer_out_size(int hidden) const { return conv ? hidden : attention.query_size(); }
};

struct ModelConfig {
  int vocab_size;     // rows of the embedding and of the head
  int num_token_ids;  // rows that are tokens: the others are padding that no best id may name
  int hidden_size, max_position_embeddings;
  std::vector<LayerConfig> layers;
  std::optional<NormConfig> embedding_norm, final_norm;
  int embedding_size;  // width of the embedding and the head where not hidden_size; 0 = it is
  bool has_head, tied_head, learned_positions;
  int num_token_types;  // rows of a table whose first is added to every embedding; 0 = none
  float embedding_multiplier;
  float logit_multiplier;  // before the soft cap
  float logit_soft_cap;    // 0 = off

  int embedding_width() const { return embedding_size ? embedding_size : hidden_size; }
};

}  // namespace shoal
