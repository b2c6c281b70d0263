// One step, as every worker of the pool runs it: the same stages in the same order. Which worker
// does a task never matters: a task writes what no other task of its stage touches.
#include <algorithm>
#include <cstring>

#include "model/model.h"

namespace shoal {

void Model::run(int worker) {
  const int tokens = in_.num_tokens;
  int stage = 0;
  pool_.stage(worker, stage++, (tokens + 7) / 8, [&](int i) {
    for (int t = 8 * i; t < std::min(tokens, 8 * i + 8); ++t) embed(worker, t);
  });
  if (config.embedding_size) project_embeddings(worker, stage);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    run_layer(worker, stage, layers_[i]);
    if (in_.num_lens_rows > 0) keep_residuals(worker, stage, static_cast<int>(i));
  }
  if (in_.num_hidden_rows > 0) write_hidden(worker, stage);
  if (in_.num_logit_rows > 0) run_head(worker, stage);
}

void Model::run_layer(int worker, int& stage, const Layer& layer) {
  const int tokens = in_.num_tokens;
  const Input normed{x_.as<float>(), static_cast<std::size_t>(hidden_stride_),
                     &layer.attention_norm, nullptr, tokens, config.hidden_size, layer.qkv.format};
  linear(worker, stage, normed, layer.qkv, qkv_.as<float>(), qkv_stride_, false);
  if (layer.conv)
    convolve(worker, stage, layer);
  else
    run_attention(worker, stage, layer);
  // The MLP of a parallel layer reads the residual before attention is added.
  if (layer.parallel) mlp_up(worker, stage, layer);
  const Input convolved{convolved_.as<float>(), static_cast<std::size_t>(hidden_stride_), nullptr,
                        nullptr, tokens, config.hidden_size, layer.output.format};
  const Input attended{attention_.as<float>(), static_cast<std::size_t>(attention_stride_), nullptr,
                       nullptr, tokens, layer.attention.query_size(), layer.output.format};
  add_branch(worker, stage, layer.conv ? convolved : attended, layer, layer.output,
             layer.attention_post_norm);
  if (!layer.parallel) mlp_up(worker, stage, layer);
  if (layer.mlp.experts) return experts_down(worker, stage, layer);
  const Input activated{mlp_.as<float>(), static_cast<std::size_t>(mlp_stride_), nullptr, nullptr,
                        tokens, layer.mlp.intermediate_size, layer.down.format};
  add_branch(worker, stage, activated, layer, layer.down, layer.mlp_post_norm);
}

void Model::run_attention(int worker, int& stage, const Layer& layer) {
  const int tokens = in_.num_tokens;
  // A chunk's tokens see each other: all are stored before any attends.
  const bool stored = !decode_only_ || layer.attention.norms_all_heads();
  if (stored)
    pool_.stage(worker, stage++, (tokens + 3) / 4, [&](int i) {
      for (int t = 4 * i; t < std::min(tokens, 4 * i + 4); ++t) store_token(worker, layer, t);
    });
  const int at_once = heads_at_once(layer);
  const int tasks = static_cast<int>(chunks_.size()) * (layer.attention.num_kv_heads / at_once);
  const bool many = tasks >= 4 * pool_.threads();  // then most follow each other on their worker
  pool_.stage(worker, stage++, tasks, [&](int i) {
    for (int h = 0; h < at_once; ++h)
      attend(worker, layer, i * at_once + h, !stored, many || h + 1 < at_once);
  });
}

void Model::embed(int worker, int token) {
  float* x = config.embedding_size
                 ? embedded_.as<float>() + static_cast<std::size_t>(token) * embedded_stride_
                 : x_.as<float>() + static_cast<std::size_t>(token) * hidden_stride_;
  if (config.tied_head)
    head_.unpack_row(in_.token_ids[token], x);
  else
    embedding_.unpack_row(in_.token_ids[token], x);
  const int stride = config.embedding_size ? embedded_stride_ : hidden_stride_;
  std::fill(x + config.embedding_width(), x + stride, 0.0f);  // a NaN may have been left there
  if (config.embedding_multiplier != 1.0f)
    for (int i = 0; i < config.embedding_width(); ++i) x[i] *= config.embedding_multiplier;
  if (!config.embedding_size) finish_embedding(worker, token);
}

// Embeddings of another width into the residual.
void Model::project_embeddings(int worker, int& stage) {
  const int tokens = in_.num_tokens;
  const Input embedded{embedded_.as<float>(), static_cast<std::size_t>(embedded_stride_), nullptr,
                       nullptr, tokens, config.embedding_size, embedding_projection_.format};
  linear(worker, stage, embedded, embedding_projection_, x_.as<float>(), hidden_stride_, false);
  pool_.stage(worker, stage++, (tokens + 7) / 8, [&](int i) {
    for (int t = 8 * i; t < std::min(tokens, 8 * i + 8); ++t) finish_embedding(worker, t);
  });
}

// The token type, the position and the norm of a token's residual before the first layer.
void Model::finish_embedding(int worker, int token) {
  float* x = x_.as<float>() + static_cast<std::size_t>(token) * hidden_stride_;
  if (config.num_token_types > 0)
    for (int i = 0; i < config.hidden_size; ++i) x[i] += token_type_[i];
  if (config.learned_positions) {
    float* position = workers_[worker].row.data();
    position_embedding_.row(in_.positions[token], position);
    for (int i = 0; i < config.hidden_size; ++i) x[i] += position[i];
  }
  if (embedding_norm_.exists()) apply_norm(embedding_norm_, x, config.hidden_size, x);
}

// The residual of the lens rows as this layer leaves it, for the head.
void Model::keep_residuals(int worker, int& stage, int layer) {
  float* const x = x_.as<float>();
  const std::size_t stride = hidden_stride_;
  const std::size_t first = in_.num_tokens + static_cast<std::size_t>(layer) * in_.num_lens_rows;
  pool_.stage(worker, stage++, in_.num_lens_rows, [&](int i) {
    std::memcpy(x + (first + i) * stride, x + in_.lens_indices[i] * stride, sizeof(float) * stride);
  });
}

// What has been computed of a branch into the residual, see add_branch.
void Model::finish_branch(const Layer& layer, const Norm& post_norm, int row) {
  const std::size_t at = static_cast<std::size_t>(row) * hidden_stride_;
  float *x = x_.as<float>() + at, *branch = branch_.as<float>() + at;
  if (post_norm.exists() && !layer.post_norm_of_sum)
    apply_norm(post_norm, branch, config.hidden_size, branch);
  kernels_->add(branch, hidden_stride_ / kPanel, layer.residual_multiplier, x);
  if (post_norm.exists() && layer.post_norm_of_sum)
    apply_norm(post_norm, x, config.hidden_size, x);
}

// x += post_norm(weights . input), or x = post_norm(x + weights . input), all of a branch's rows;
// the product times the layer's multiplier.
void Model::add_branch(int worker, int& stage, const Input& input, const Layer& layer,
                       const PackedMatrix& weights, const Norm& post_norm) {
  if (!post_norm.exists() && layer.residual_multiplier == 1.0f)
    return linear(worker, stage, input, weights, x_.as<float>(), hidden_stride_, true);
  linear(worker, stage, input, weights, branch_.as<float>(), hidden_stride_, false);
  pool_.stage(worker, stage++, (input.count + 3) / 4, [&](int i) {
    for (int r = 4 * i; r < std::min(input.count, 4 * i + 4); ++r)
      finish_branch(layer, post_norm, r);
  });
}

}  // namespace shoal
