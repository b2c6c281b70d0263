// Attention of a step: keys and values into the cache, then one task per chunk of tokens and KV
// head. A token's row of qkv_ is [query heads | KV heads of keys | KV heads of values], each
// head_dim wide.
#include <algorithm>

#include "model/model.h"

namespace shoal {

void Model::store_head(const Layer& layer, int token, int kv_head) {
  const AttentionConfig& c = layer.attention;
  const int dim = c.head_dim, group = c.group();
  const RotaryTable* rotary = layer.rotary < 0 ? nullptr : &rotaries_[layer.rotary];
  const float* cos_sin = rotary ? rotary->at(in_.positions[token]) : nullptr;
  const int half = rotary ? rotary->half() : 0;
  float* row = qkv_.as<float>() + static_cast<std::size_t>(token) * qkv_stride_;
  for (int g = 0; g < group; ++g)
    kernels_->rotate(row + (kv_head * group + g) * dim, dim, layer.q_norm.of_head(), cos_sin, half,
                     c.scale);
  float* key = row + (c.num_heads + kv_head) * dim;
  const float* value = row + (c.num_heads + c.num_kv_heads + kv_head) * dim;
  kernels_->rotate(key, dim, layer.k_norm.of_head(), cos_sin, half, 1.0f);
  const int slot = in_.slots[token];
  char* k = kv_.data() + layer.kv.offset + slot / kBlock * block_bytes_ +
            kv_head * layer.kv.head_bytes;
  kernels_->store_kv[static_cast<int>(kv_format_)](
      {k, k + layer.kv.k_bytes, slot % kBlock, dim, key, value});
}

void Model::store_token(const Layer& layer, int token) {
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

void Model::attend(int worker, const Layer& layer, int task, bool store,
                   bool prefetch_next_head) {
  const AttentionConfig& c = layer.attention;
  const KvPlace& kv = layer.kv;
  const Chunk& chunk = chunks_[task / c.num_kv_heads];
  const int kv_head = task % c.num_kv_heads, first_head = kv_head * c.group();
  if (store) store_head(layer, chunk.first, kv_head);
  AttendArgs a{};
  a.kv = kv_.data() + kv.offset + kv_head * kv.head_bytes;
  a.block_bytes = block_bytes_;
  a.v_offset = kv.k_bytes;
  a.next = prefetch_next_head && chunk.count == 1 ? kv.head_bytes - kv.k_bytes : 0;
  a.table = in_.block_tables + static_cast<std::size_t>(chunk.row) * in_.table_width;
  a.head_dim = c.head_dim;
  a.group = c.group();
  a.tokens = chunk.count;
  a.context = in_.context_lens[chunk.row] - (in_.row_starts[chunk.row + 1] - chunk.first) + 1;
  a.window = c.window;
  a.soft_cap = c.soft_cap;
  a.q = qkv_.as<float>() + static_cast<std::size_t>(chunk.first) * qkv_stride_ +
        first_head * c.head_dim;
  a.q_stride = qkv_stride_;
  a.out = attention_.as<float>() + static_cast<std::size_t>(chunk.first) * attention_stride_ +
          first_head * c.head_dim;
  a.out_stride = attention_stride_;
  a.scratch = workers_[worker].attention.data();
  kernels_->attend[static_cast<int>(kv_format_)](a);
}

}  // namespace shoal
