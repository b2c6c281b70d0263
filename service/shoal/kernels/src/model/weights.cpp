// Weights by role: which place in the model a role of shoal/model/spec.py names.

#include "model/model.h"
#include "require.h"

namespace shoal {
namespace {

std::vector<float> values_of(const Matrix& vector) {
  std::vector<float> values(vector.cols);
  read_row(vector, 0, values.data());
  return values;
}

// Is it a matrix whose format depends on what it is stored as? Of experts every one is.
bool is_matrix(const std::string& name) {
  const std::string last = name.substr(name.rfind('.') + 1);
  for (const char* matrix :
       {"q", "k", "v", "output", "gate", "up", "down", "head", "embedding", "embedding_projection",
        "head_projection", "conv_in", "conv_out"})
    if (last == matrix) return true;
  return false;
}

}  // namespace

void Model::propose_format(int layer, const std::string& role, Source source) {
  const std::size_t dot = role.rfind('.');
  const std::string name = role.substr(0, dot);
  if ((dot != std::string::npos && role.substr(dot) == ".bias") || !is_matrix(name)) return;
  require(layer < static_cast<int>(layers_.size()), "layer outside the model");
  linear_target(layer, name).matrix->propose(format_for(name, source));
}

Format Model::format_for(const std::string& name, Source source) const {
  const BlockType* blocks = block_type(source);
  const bool is_table = name == "embedding", is_head = name == "head" || is_table;
  switch (dtype_) {
    case Dtype::f32: return Format::f32;
    case Dtype::bf16: break;
    case Dtype::int8:
    case Dtype::int4: {
      const Format format = dtype_ == Dtype::int8 || is_head ? Format::int8 : Format::int4;
      const bool is_kept =
          blocks && (blocks->format == Format::int4 || format != Format::int4);
      return is_kept ? blocks->format : format;  // nothing is won by more bits than there are
    }
    case Dtype::blocks:
      if (blocks) return blocks->format;
      if (source != Source::bf16) return Format::f32;
  }
  // What is only looked up stays as it is.
  return is_table && !config.tied_head ? Format::bf16 : linear_format_;
}

void Model::set_weight(int layer, const std::string& role, const Matrix& m) {
  require(layer < static_cast<int>(layers_.size()), "layer outside the model");
  const std::size_t dot = role.rfind('.');
  const std::string name = role.substr(0, dot);
  const bool is_bias = dot != std::string::npos && role.substr(dot) == ".bias";
  const auto fits = [&](int rows, int cols) {
    require(m.rows == rows && m.cols == cols, "weight " + role + " does not fit the model");
  };
  if (name == "position_embedding") {
    fits(config.max_position_embeddings, config.hidden_size);
    position_embedding_ = Table(Format::f32, m);
  } else if (name == "token_type_embedding" && config.num_token_types > 0) {
    fits(config.num_token_types, config.hidden_size);
    token_type_ = values_of(m);  // of the first row
  } else if (name.size() > 5 && name.compare(name.size() - 5, 5, "_norm") == 0) {
    Norm& norm = norm_target(layer, name);
    std::vector<float>& to = is_bias ? norm.bias : norm.weight;
    require(is_bias || norm.has_weight, "no weight is called " + role);
    fits(1, m.cols);
    require(round_up(m.cols, kPanel) == static_cast<int>(to.size()),
            "weight " + role + " does not fit the model");
    const std::vector<float> values = values_of(m);
    for (int i = 0; i < m.cols; ++i) to[i] = is_bias ? values[i] : norm.weight_offset + values[i];
  } else if (name == "conv" && layer >= 0 && layers_[layer].conv) {
    set_conv(layers_[layer], role, m);
  } else {
    const Target target = linear_target(layer, name);
    if (is_bias) {
      fits(1, target.outputs);
      target.matrix->set_bias(values_of(m).data(), target.outputs, target.first, target.part);
    } else {
      fits(target.outputs, target.matrix->k);
      target.matrix->set_weight(m, target.first, target.part, pool_);
    }
  }
}

Model::Target Model::linear_target(int index, const std::string& name) {
  using Part = PackedMatrix::Part;
  if (name == "embedding" && !config.tied_head)
    return {&embedding_, 0, config.vocab_size, Part::whole};
  if ((name == "head" && config.has_head) || name == "embedding")
    return {&head_, 0, config.vocab_size, Part::whole};
  if (name == "embedding_projection")
    return {&embedding_projection_, 0, config.hidden_size, Part::whole};
  if (name == "head_projection")
    return {&head_projection_, 0, config.embedding_size, Part::whole};
  require(index >= 0, "no weight is called " + name);
  Layer& layer = layers_[index];
  const int queries = layer.attention.query_size(), keys = layer.attention.kv_size();
  if (layer.conv && name == "conv_in")
    return {&layer.qkv, 0, 3 * config.hidden_size, Part::whole};
  if (layer.conv && name == "conv_out") return {&layer.output, 0, config.hidden_size, Part::whole};
  if (name == "q") return {&layer.qkv, 0, queries, Part::whole};
  if (name == "k") return {&layer.qkv, queries, keys, Part::whole};
  if (name == "v") return {&layer.qkv, queries + keys, keys, Part::whole};
  if (name == "output") return {&layer.output, 0, config.hidden_size, Part::whole};
  if (layer.mlp.experts) return expert_target(layer, name);
  return mlp_target(layer.up, layer.down, layer.mlp.gated, layer.mlp.intermediate_size, name);
}

Norm& Model::norm_target(int index, const std::string& name) {
  if (name == "embedding_norm") return embedding_norm_;
  if (name == "final_norm") return final_norm_;
  require(index >= 0, "no norm is called " + name);
  Layer& layer = layers_[index];
  if (name == "attention_norm") return layer.attention_norm;
  if (name == "attention_post_norm") return layer.attention_post_norm;
  if (name == "mlp_norm") return layer.mlp_norm;
  if (name == "mlp_post_norm") return layer.mlp_post_norm;
  if (name == "q_norm") return layer.q_norm;
  require(name == "k_norm", "no norm is called " + name);
  return layer.k_norm;
}

}  // namespace shoal
