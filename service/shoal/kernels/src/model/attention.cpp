// Attention of a step: keys and values into the cache, then one task per chunk of tokens and KV
// head. A token's row of qkv_ is [query heads | KV heads of keys | KV heads of values], each
// head_dim wide.
#include <algorithm>

#include "model/model.h"

namespace shoal {

Rotation Model::rotation(const Layer& layer, int token) const {
  if (layer.rotary < 0) return {};
  const RotaryTable& table = rotaries_[layer.rotary];
  return {table.at(in_.positions[token]), table.half(), table.config().interleaved};
}

// Queries of the group, key and value of one KV head: limits, norm, rotation, scale; then into the
// cache. Where the norm is over all heads, norm_all_heads() went before.
void Model::store_head(const Layer& layer, int token, int kv_head) {
  const AttentionConfig& c = layer.attention;
  const int dim = c.head_dim, group = c.group();
  const bool is_normed = c.norms_all_heads();
  const Rotation turn =
      is_normed && layer.q_norm.after_rotary ? Rotation{} : rotation(layer, token);
  float* row = qkv_.as<float>() + static_cast<std::size_t>(token) * qkv_stride_;
  float* queries = row + kv_head * group * dim;
  float* key = row + (c.num_heads + kv_head) * dim;
  float* value = row + (c.num_heads + c.num_kv_heads + kv_head) * dim;
  const bool clips = c.clip_qkv > 0.0f && !is_normed;
  if (clips && !c.clip_after_norm) {
    kernels_->clip(queries, group * dim, c.clip_qkv);
    kernels_->clip(key, dim, c.clip_qkv);
  }
  if (c.clip_qkv > 0.0f) kernels_->clip(value, dim, c.clip_qkv);
  const auto turn_head = [&](float* x, const HeadNorm& norm, float scale) {
    if (!clips || !c.clip_after_norm) return kernels_->rotate(x, dim, norm, turn, scale);
    kernels_->rotate(x, dim, norm, norm.after_rotary ? turn : Rotation{}, 1.0f);
    kernels_->clip(x, dim, c.clip_qkv);
    kernels_->rotate(x, dim, {}, norm.after_rotary ? Rotation{} : turn, scale);
  };
  for (int g = 0; g < group; ++g)
    turn_head(queries + g * dim,
              is_normed ? HeadNorm{} : layer.q_norm.of_head(kv_head * group + g), c.scale);
  turn_head(key, is_normed ? HeadNorm{} : layer.k_norm.of_head(kv_head), 1.0f);
  const int slot = in_.slots[token];
  char* k = kv_.data() + layer.kv.offset + slot / kBlock * block_bytes_ +
            kv_head * layer.kv.head_bytes;
  kernels_->store_kv[static_cast<int>(kv_format_)](
      {k, k + layer.kv.k_bytes, slot % kBlock, dim, key, value,
       reinterpret_cast<float*>(k + layer.kv.scales_offset)});
}

// Limits, norm and, where it comes before the norm, rotation of a token's queries and keys.
void Model::norm_all_heads(Worker& worker, const Layer& layer, int token) {
  const AttentionConfig& c = layer.attention;
  const int heads = c.num_heads + c.num_kv_heads, dim = c.head_dim;
  float* row = qkv_.as<float>() + static_cast<std::size_t>(token) * qkv_stride_;
  const bool clips = c.clip_qkv > 0.0f;
  if (clips && !c.clip_after_norm) kernels_->clip(row, heads * dim, c.clip_qkv);
  if (layer.q_norm.after_rotary)
    for (int h = 0; h < heads; ++h)
      kernels_->rotate(row + h * dim, dim, {}, rotation(layer, token), 1.0f);
  const auto apply = [&](const Norm& norm, float* x, int size) {  // rows are padded with zeros
    float* padded = worker.row.data();
    std::copy(x, x + size, padded);
    std::fill(padded + size, padded + round_up(size, kPanel), 0.0f);
    apply_norm(norm, padded, size, padded);
    std::copy(padded, padded + size, x);
  };
  apply(layer.q_norm, row, c.query_size());
  apply(layer.k_norm, row + c.query_size(), c.kv_size());
  if (clips && c.clip_after_norm) kernels_->clip(row, heads * dim, c.clip_qkv);
}

void Model::store_token(int worker, const Layer& layer, int token) {
  if (layer.attention.norms_all_heads()) norm_all_heads(workers_[worker], layer, token);
  for (int h = 0; h < layer.attention.num_kv_heads; ++h) store_head(layer, token, h);
}

// KV heads of a task: their keys and values lie side by side. As many as leave every worker a few
// tasks.
int Model::heads_at_once(const Layer& layer) const {
  const int num_heads = layer.attention.num_kv_heads;
  const int wanted = 4 * pool_.threads() / static_cast<int>(chunks_.size()) + 1;
  int heads = std::max(1, num_heads / wanted);
  while (num_heads % heads != 0) --heads;
  return heads;
}

// Task `next`, of one token, will be computed by the same worker: its keys are fetched meanwhile.
void Model::prefetch_keys(const Layer& layer, std::size_t next, AttendArgs& a) const {
  const std::size_t num_heads = layer.attention.num_kv_heads;
  if (next >= chunks_.size() * num_heads || chunks_[next / num_heads].count > 1) return;
  const int row = chunks_[next / num_heads].row;
  a.next_kv = kv_.data() + layer.kv.offset + next % num_heads * layer.kv.head_bytes;
  a.next_table = in_.block_tables + static_cast<std::size_t>(row) * in_.table_width;
  a.next_blocks = (in_.context_lens[row] + kBlock - 1) / kBlock;
}

void Model::attend(int worker, const Layer& layer, int task, bool store, bool has_next) {
  const AttentionConfig& c = layer.attention;
  const KvPlace& kv = layer.kv;
  const Chunk& chunk = chunks_[task / c.num_kv_heads];
  const int kv_head = task % c.num_kv_heads, first_head = kv_head * c.group();
  if (store) store_head(layer, chunk.first, kv_head);
  AttendArgs a{};
  a.kv = kv_.data() + kv.offset + kv_head * kv.head_bytes;
  a.block_bytes = block_bytes_;
  a.v_offset = kv.k_bytes;
  a.scales_offset = kv.scales_offset;
  if (has_next && chunk.count == 1) prefetch_keys(layer, task + 1, a);
  a.table = in_.block_tables + static_cast<std::size_t>(chunk.row) * in_.table_width;
  a.head_dim = c.head_dim;
  a.group = c.group();
  a.tokens = chunk.count;
  a.context = in_.context_lens[chunk.row] - (in_.row_starts[chunk.row + 1] - chunk.first) + 1;
  a.window = c.window;
  a.last = c.causal ? 0 : in_.context_lens[chunk.row];
  a.soft_cap = c.soft_cap;
  a.alibi = c.alibi_slopes.empty() ? nullptr : c.alibi_slopes.data() + first_head;
  a.q = qkv_.as<float>() + static_cast<std::size_t>(chunk.first) * qkv_stride_ +
        first_head * c.head_dim;
  a.q_stride = qkv_stride_;
  a.out = attention_.as<float>() + static_cast<std::size_t>(chunk.first) * attention_stride_ +
          first_head * c.head_dim;
  a.out_stride = attention_stride_;
  a.scratch = workers_[worker].attention.data();
  kernels_->attend[static_cast<int>(kv_format_)](a);
  // Behind the last head of a row lies what a layer with more channels has left.
  if (kv_head + 1 == c.num_kv_heads && c.query_size() % kPanel != 0)
    for (int t = 0; t < chunk.count; ++t) {
      float* row = attention_.as<float>() +
                   static_cast<std::size_t>(chunk.first + t) * attention_stride_;
      std::fill(row + c.query_size(), row + round_up(c.query_size(), kPanel), 0.0f);
    }
}

}  // namespace shoal
