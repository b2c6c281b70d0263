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

}  // namespace

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
  } else if (name == "embedding" && !config.tied_head) {
    fits(config.vocab_size, config.embedding_width());
    embedding_ = Table(format_, m);
  } else if (name.size() > 5 && name.compare(name.size() - 5, 5, "_norm") == 0) {
    Norm& norm = norm_target(layer, name);
    std::vector<float>& to = is_bias ? norm.bias : norm.weight;
    require(is_bias || norm.has_weight, "no weight is called " + role);
    fits(1, m.cols);
    require(round_up(m.cols, kPanel) == static_cast<int>(to.size()),
            "weight " + role + " does not fit the model");
    const std::vector<float> values = values_of(m);
    for (int i = 0; i < m.cols; ++i) to[i] = is_bias ? values[i] : norm.weight_offset + values[i];
  } else {
    const Target target = linear_target(layer, name);
    if (is_bias) {
      fits(1, target.outputs);
      target.matrix->set_bias(values_of(m).data(), target.outputs, target.first, target.part);
    } else {
      fits(target.outputs, target.matrix->k);
      target.matrix->set_weight(m, target.first, target.part);
    }
  }
}

Model::Target Model::linear_target(int index, const std::string& name) {
  using Part = PackedMatrix::Part;
  if (name == "head" || name == "embedding") return {&head_, 0, config.vocab_size, Part::whole};
  if (name == "embedding_projection")
    return {&embedding_projection_, 0, config.hidden_size, Part::whole};
  if (name == "head_projection")
    return {&head_projection_, 0, config.embedding_size, Part::whole};
  require(index >= 0, "no weight is called " + name);
  Layer& layer = layers_[index];
  const int queries = layer.attention.query_size(), keys = layer.attention.kv_size();
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
