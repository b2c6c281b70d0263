// A DecoderSpec's attributes, one by one, into a ModelConfig.
#include "bindings/spec.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>

namespace shoal {
namespace nb = nanobind;
namespace {

template <class T>
T get(const nb::handle& spec, const char* name) {
  return nb::cast<T>(spec.attr(name));
}

// 0, or an empty vector, for None.
template <class T>
T get_or_zero(const nb::handle& spec, const char* name) {
  const nb::object value = spec.attr(name);
  return value.is_none() ? T{} : nb::cast<T>(value);
}

template <class Enum, std::size_t N>
Enum one_of(const std::string& word, const char* const (&words)[N]) {
  for (std::size_t i = 0; i < N; ++i)
    if (word == words[i]) return static_cast<Enum>(i);
  throw std::invalid_argument("the native library lacks " + word);
}

NormConfig read_norm(const nb::handle& spec) {
  const auto kind = one_of<NormKind>(get<std::string>(spec, "kind"), {"rms", "layer"});
  return {kind, get<float>(spec, "eps"), get<float>(spec, "weight_offset"),
          get<bool>(spec, "bias"), get<bool>(spec, "has_weight")};
}

std::optional<NormConfig> read_optional_norm(const nb::handle& spec) {
  return spec.is_none() ? std::nullopt : std::optional(read_norm(spec));
}

RotaryConfig read_rotary(const nb::handle& spec) {
  return {get<std::vector<float>>(spec, "inv_freq"), get<float>(spec, "magnitude"),
          get<bool>(spec, "interleaved")};
}

QKNormConfig read_qk_norm(const nb::handle& spec) {
  const int over = one_of<int>(get<std::string>(spec, "over"), {"head", "all"});
  return {read_norm(spec.attr("norm")), over == 1, get<bool>(spec, "weight_per_head"),
          get<bool>(spec, "after_rotary")};
}

AttentionConfig read_attention(const nb::handle& spec) {
  AttentionConfig c{};
  c.num_heads = get<int>(spec, "num_heads");
  c.num_kv_heads = get<int>(spec, "num_kv_heads");
  c.head_dim = get<int>(spec, "head_dim");
  c.scale = get<float>(spec, "scale");
  c.window = get_or_zero<int>(spec, "window");
  c.soft_cap = get_or_zero<float>(spec, "soft_cap");
  c.clip_qkv = get_or_zero<float>(spec, "clip_qkv");
  c.clip_after_norm = get<bool>(spec, "clip_after_norm");
  c.causal = get<bool>(spec, "causal");
  c.alibi_slopes = get_or_zero<std::vector<float>>(spec, "alibi_slopes");
  const nb::object rotary = spec.attr("rotary"), qk_norm = spec.attr("qk_norm");
  if (!rotary.is_none()) c.rotary = read_rotary(rotary);
  if (!qk_norm.is_none()) c.qk_norm = read_qk_norm(qk_norm);
  return c;
}

std::optional<ExpertsConfig> read_experts(const nb::handle& spec) {
  if (spec.is_none()) return std::nullopt;
  return ExpertsConfig{get<int>(spec, "num_experts"), get<int>(spec, "num_experts_per_token"),
                       get<bool>(spec, "normalized"),
                       get_or_zero<int>(spec, "shared_intermediate_size"),
                       get<bool>(spec, "shared_gate")};
}

MlpConfig read_mlp(const nb::handle& spec) {
  const auto activation = one_of<Activation>(get<std::string>(spec, "activation"),
                                             {"silu", "gelu", "gelu_tanh", "relu", "relu2"});
  return {get<int>(spec, "intermediate_size"), activation, get<bool>(spec, "gated"),
          read_experts(spec.attr("experts"))};
}

LayerConfig read_layer(const nb::handle& spec) {
  LayerConfig c{};
  const nb::object mixer = spec.attr("mixer");
  if (get<bool>(spec, "attends"))
    c.attention = read_attention(mixer);
  else
    c.conv = ShortConvConfig{get<int>(mixer, "kernel_size")};
  c.mlp = read_mlp(spec.attr("mlp"));
  c.attention_norm = read_optional_norm(spec.attr("attention_norm"));
  c.mlp_norm = read_optional_norm(spec.attr("mlp_norm"));
  c.attention_post_norm = read_optional_norm(spec.attr("attention_post_norm"));
  c.mlp_post_norm = read_optional_norm(spec.attr("mlp_post_norm"));
  c.parallel = get<bool>(spec, "parallel");
  c.post_norm_of_sum = one_of<int>(get<std::string>(spec, "post_norm_of"), {"branch", "sum"}) == 1;
  c.residual_multiplier = get<float>(spec, "residual_multiplier");
  return c;
}

}  // namespace

ModelConfig read_spec(const nb::handle& spec, int num_token_ids) {
  ModelConfig c{};
  c.vocab_size = get<int>(spec, "vocab_size");
  c.num_token_ids = num_token_ids;
  c.hidden_size = get<int>(spec, "hidden_size");
  c.max_position_embeddings = get<int>(spec, "max_position_embeddings");
  for (const nb::handle layer : spec.attr("layers")) c.layers.push_back(read_layer(layer));
  c.embedding_norm = read_optional_norm(spec.attr("embedding_norm"));
  c.embedding_size = get_or_zero<int>(spec, "embedding_size");
  c.final_norm = read_optional_norm(spec.attr("final_norm"));
  c.has_head = get<bool>(spec, "has_head");
  c.tied_head = get<bool>(spec, "tied_head");
  c.learned_positions = get<bool>(spec, "learned_positions");
  c.num_token_types = get<int>(spec, "num_token_types");
  c.embedding_multiplier = get<float>(spec, "embedding_multiplier");
  c.logit_multiplier = get<float>(spec, "logit_multiplier");
  c.logit_soft_cap = get_or_zero<float>(spec, "logit_soft_cap");
  return c;
}

}  // namespace shoal
