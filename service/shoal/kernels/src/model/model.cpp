// The memory of a model: what its config needs, taken once and never moved.
#include "model/model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/all.h"
#include "require.h"

namespace shoal {
namespace {

int up_outputs(const MlpConfig& mlp, int intermediate_size) {
  return mlp.gated ? 2 * round_up(intermediate_size, kPanel) : intermediate_size;
}

// (MLPs of that width, width) of a layer.
std::vector<std::pair<int, int>> mlp_sizes(const MlpConfig& mlp) {
  if (!mlp.experts) return {{1, mlp.intermediate_size}};
  return {{mlp.experts->num_experts, mlp.intermediate_size},
          {mlp.experts->has_shared(), mlp.experts->shared_intermediate_size}};
}

// Room for all linear layers.
std::size_t arena_bytes(const ModelConfig& c, Format format) {
  const auto linear = [&](int outputs, int inputs) {
    return traits_of(format).panel_bytes(inputs) * (round_up(outputs, kPanel) / kPanel) + 64;
  };
  std::size_t bytes = linear(c.vocab_size, c.embedding_width());
  if (c.embedding_size)
    bytes += linear(c.hidden_size, c.embedding_size) + linear(c.embedding_size, c.hidden_size);
  for (const LayerConfig& layer : c.layers) {
    bytes += linear(layer.mixer_in_size(c.hidden_size), c.hidden_size) +
             linear(c.hidden_size, layer.mixer_out_size(c.hidden_size));
    for (const auto& [count, size] : mlp_sizes(layer.mlp))
      bytes += count * (linear(c.hidden_size, size) +
                        linear(up_outputs(layer.mlp, size), c.hidden_size));
  }
  return bytes;
}

// bf16_packed12 takes time to unpack, which only weights beyond the cache give back.
Format choose_linear_format(const ModelConfig& c, Dtype dtype, const Kernels& kernels,
                            std::size_t cache_bytes) {
  switch (dtype) {
    case Dtype::f32: return Format::f32;
    case Dtype::int4: return Format::int4;
    case Dtype::int8: return Format::int8;
    default: break;
  }
  if (kernels.bf16_weights != Format::bf16_packed12) return kernels.bf16_weights;
  return arena_bytes(c, Format::bf16) <= cache_bytes / 2 ? Format::bf16 : Format::bf16_packed12;
}

KvFormat kv_format_of(Dtype dtype, bool int8) {
  if (int8) return KvFormat::int8;
  return dtype == Dtype::f32 ? KvFormat::f32 : KvFormat::bf16;
}

// Of a panel of so many rows of 16 numbers.
std::size_t kv_panel_bytes(KvFormat format, int rows) {
  if (format == KvFormat::int8) return static_cast<std::size_t>(rows) * kPanel;
  return traits_of(format == KvFormat::f32 ? Format::f32 : Format::bf16).panel_bytes(rows);
}

void check_sizes(const ModelConfig& c) {
  require(c.vocab_size > 0 && c.hidden_size > 0 && c.max_position_embeddings > 0,
          "sizes of a model must be positive");
  require(c.embedding_size >= 0, "sizes of a model must be positive");
  require(c.num_token_ids > 0 && c.num_token_ids <= c.vocab_size,
          "num_token_ids must be within 1..vocab_size");
  for (const LayerConfig& layer : c.layers) {
    const AttentionConfig& a = layer.attention;
    require(layer.mlp.intermediate_size > 0, "sizes of a layer must be positive");
    if (layer.conv) {
      require(layer.conv->kernel_size > 1, "kernel_size must be at least 2");
      continue;
    }
    require(a.num_heads > 0 && a.num_kv_heads > 0 && a.head_dim > 0,
            "sizes of a layer must be positive");
    if (const auto& e = layer.mlp.experts)
      require(e->num_experts_per_token > 0 && e->num_experts_per_token <= e->num_experts &&
                  e->shared_intermediate_size >= 0 && (e->has_shared() || !e->shared_gate),
              "a token needs 1..num_experts experts, and a shared gate a shared expert");
    require(a.num_heads % a.num_kv_heads == 0, "num_heads must be a multiple of num_kv_heads");
    require(!a.rotary || 2 * a.rotary->inv_freq.size() <= static_cast<std::size_t>(a.head_dim),
            "a head has fewer channels than are rotated");
    require(a.alibi_slopes.empty() ||
                a.alibi_slopes.size() == static_cast<std::size_t>(a.num_heads),
            "alibi_slopes must have one slope per head");
  }
}

}  // namespace

RotaryTable::RotaryTable(const RotaryConfig& config, int max_positions)
    : config_(config),
      table_(sizeof(float) * 2 * config.inv_freq.size() * static_cast<std::size_t>(max_positions)) {
}

// Angles are float32 products, like those of the PyTorch models.
void RotaryTable::fill(int last_position) {
  for (; filled_ <= last_position; ++filled_) {
    float* at = table_.as<float>() + static_cast<std::size_t>(filled_) * 2 * half();
    for (int i = 0; i < half(); ++i) {
      const float angle = static_cast<float>(filled_) * config_.inv_freq[i];
      at[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * config_.magnitude;
      at[half() + i] = static_cast<float>(std::sin(static_cast<double>(angle))) * config_.magnitude;
    }
  }
}

Model::Model(const ModelConfig& c, Dtype dtype, const Kernels* kernels, int num_blocks,
             int max_tokens, int threads, int spin_us, std::size_t cache_bytes, bool int8_kv)
    : config((check_sizes(c), c)),
      dtype_(dtype),
      kv_format_(kv_format_of(dtype, int8_kv)),
      linear_format_(choose_linear_format(c, dtype, *kernels, cache_bytes)),
      adapter_format_(dtype == Dtype::f32 ? Format::f32 : Format::bf16),
      kernels_(kernels),
      num_blocks_(num_blocks),
      max_tokens_(max_tokens),
      arena_(arena_bytes(c, linear_format_)),
      embedding_norm_(c.embedding_norm, c.hidden_size),
      final_norm_(c.final_norm, c.hidden_size),
      head_(linear_format_, c.vocab_size, c.embedding_width(), &arena_),
      embedding_(linear_format_, c.vocab_size, c.embedding_width(), &arena_),
      workers_(threads),
      pool_(threads, spin_us) {
  hidden_stride_ = round_up(c.hidden_size, kPanel);
  num_stages_ = 5;  // embedding, final vectors, head
  if (c.embedding_size) {
    embedding_projection_ = PackedMatrix(linear_format_, c.hidden_size, c.embedding_size, &arena_);
    head_projection_ = PackedMatrix(linear_format_, c.embedding_size, c.hidden_size, &arena_);
    embedded_stride_ = round_up(c.embedding_size, kPanel);
    num_stages_ += 5;
  }
  layers_.reserve(c.layers.size());
  for (const LayerConfig& layer : c.layers) add_layer(layer);
  widest_ = round_up(
      std::max({attention_stride_, hidden_stride_, mlp_stride_, embedded_stride_, expert_stride_}),
      Int16Block::kInputs);
  const auto floats = [&](int stride) {
    return Region(sizeof(float) * static_cast<std::size_t>(stride) * max_tokens);
  };
  kv_ = Region(block_bytes_ * num_blocks);
  x_ = floats(hidden_stride_);
  qkv_ = floats(qkv_stride_);
  attention_ = floats(attention_stride_);
  convolved_ = floats(hidden_stride_);  // costs memory only where a layer convolves
  mlp_ = floats(mlp_stride_);
  branch_ = floats(hidden_stride_);  // costs memory only where a layer has a norm behind a branch
  embedded_ = floats(embedded_stride_);
  prepared_ = floats(widest_);
  for (Worker& worker : workers_) {
    worker.rows = Region(sizeof(float) * static_cast<std::size_t>(widest_) * kFewRows);
    worker.scratch = Region(sizeof(float) * kScratchRows * kScratchPanels * kPanel);
    worker.row.resize(widest_);
  }
  make_room_for_experts();
}

void Model::add_layer(const LayerConfig& c) {
  const AttentionConfig& a = c.attention;
  const int hidden = config.hidden_size;
  const int qkv_size = c.mixer_in_size(hidden), mixed_size = c.mixer_out_size(hidden);
  const auto matrix = [&](int n, int k) { return PackedMatrix(linear_format_, n, k, &arena_); };
  Layer layer;
  layer.attention = a;
  layer.conv = c.conv;
  layer.mlp = c.mlp;
  layer.parallel = c.parallel;
  layer.post_norm_of_sum = c.post_norm_of_sum;
  layer.residual_multiplier = c.residual_multiplier;
  layer.attention_norm = Norm(c.attention_norm, hidden);
  layer.attention_post_norm = Norm(c.attention_post_norm, hidden);
  layer.mlp_norm = Norm(c.mlp_norm, hidden);
  layer.mlp_post_norm = Norm(c.mlp_post_norm, hidden);
  layer.q_norm = QKNorm(a.qk_norm, a.num_heads, a.head_dim);
  layer.k_norm = QKNorm(a.qk_norm, a.num_kv_heads, a.head_dim);
  layer.qkv = matrix(qkv_size, hidden);
  layer.output = matrix(hidden, mixed_size);
  if (c.mlp.experts) {
    add_experts(c.mlp, layer);
  } else {
    layer.up = matrix(up_outputs(c.mlp, c.mlp.intermediate_size), hidden);
    layer.down = matrix(hidden, c.mlp.intermediate_size);
    mlp_stride_ = std::max(mlp_stride_, round_up(c.mlp.intermediate_size, kPanel));
  }
  if (a.rotary) layer.rotary = rotary_table(*a.rotary);
  layer.kv.k_bytes = round_up(static_cast<int>(kv_panel_bytes(kv_format_, a.head_dim)), 64);
  layer.kv.scales_offset = layer.kv.k_bytes + kv_panel_bytes(kv_format_, kBlock) *
                                                  (round_up(a.head_dim, kPanel) / kPanel);
  layer.kv.head_bytes = layer.kv.scales_offset;
  if (kv_format_ == KvFormat::int8) layer.kv.head_bytes += 2 * kBlock * sizeof(float);
  layer.kv.offset = block_bytes_;
  block_bytes_ += layer.kv.head_bytes * a.num_kv_heads;
  if (c.conv) {
    layer.conv_taps.resize(static_cast<std::size_t>(c.conv->kernel_size) * hidden);
    block_bytes_ += round_up(c.conv->values_per_block() * hidden * 4, 64);
  }
  qkv_stride_ = std::max(qkv_stride_, round_up(qkv_size, kPanel));
  attention_stride_ = std::max(attention_stride_, round_up(mixed_size, kPanel));
  if (!c.conv) max_group_ = std::max(max_group_, a.group());
  num_stages_ += 14;  // as many as a layer can have
  layers_.push_back(std::move(layer));
}

// The router stays float32: close logits decide which expert a token meets.
void Model::add_experts(const MlpConfig& mlp, Layer& layer) {
  const ExpertsConfig& c = *mlp.experts;
  layer.router = PackedMatrix(Format::f32, c.num_experts + c.shared_gate, config.hidden_size);
  router_stride_ = std::max(router_stride_, layer.router.panels() * kPanel);
  max_expert_rows_ = std::max(max_expert_rows_, c.rows_per_token());
  for (const auto& [count, size] : mlp_sizes(mlp))
    for (int i = 0; i < count; ++i) {
      Expert expert{size, PackedMatrix(linear_format_, up_outputs(mlp, size), config.hidden_size,
                                       &arena_),
                    PackedMatrix(linear_format_, config.hidden_size, size, &arena_)};
      layer.experts.push_back(std::move(expert));
      expert_stride_ = std::max(expert_stride_, round_up(size, kPanel));
    }
}

void Model::make_room_for_experts() {
  if (max_expert_rows_ == 0) return;
  const std::size_t rows = static_cast<std::size_t>(max_tokens_) * max_expert_rows_;
  router_logits_ = Region(sizeof(float) * router_stride_ * max_tokens_);
  expert_inside_ = Region(sizeof(float) * expert_stride_ * rows);
  expert_out_ = Region(sizeof(float) * hidden_stride_ * rows);
  routing_.picked.resize(rows);
  routing_.weights.resize(rows);
  routing_.row_of.resize(rows);
  routing_.token_of.resize(rows);
  expert_tasks_.resize(layers_.size());
  for (Worker& worker : workers_) {
    worker.expert_rows = Region(sizeof(float) * static_cast<std::size_t>(widest_) * kExpertRows);
  }
}

int Model::rotary_table(const RotaryConfig& rotary) {
  for (std::size_t i = 0; i < rotaries_.size(); ++i)
    if (rotaries_[i].config() == rotary) return static_cast<int>(i);
  rotaries_.emplace_back(rotary, config.max_position_embeddings);
  return static_cast<int>(rotaries_.size()) - 1;
}

std::size_t Model::weight_bytes() const {
  std::size_t bytes = head_.memory_bytes() + embedding_.memory_bytes() +
                      position_embedding_.bytes() + embedding_projection_.memory_bytes() +
                      head_projection_.memory_bytes();
  for (const Layer& layer : layers_) {
    bytes += layer.qkv.memory_bytes() + layer.output.memory_bytes() + layer.up.memory_bytes() +
             layer.down.memory_bytes() + layer.router.memory_bytes();
    for (const Expert& expert : layer.experts)
      bytes += expert.up.memory_bytes() + expert.down.memory_bytes();
  }
  return bytes;
}

void Model::copy_block(int source, int target) {
  require(source >= 0 && source < num_blocks_ && target >= 0 && target < num_blocks_,
          "block id outside the cache");
  pool_.wait_idle(0);
  std::memcpy(kv_.data() + target * block_bytes_, kv_.data() + source * block_bytes_,
              block_bytes_);
}

void Model::release_block(int block) {
  require(block >= 0 && block < num_blocks_, "block id outside the cache");
  pool_.wait_idle(0);
  kv_.release(block * block_bytes_, block_bytes_);
}

}  // namespace shoal
