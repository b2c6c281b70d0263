// A model's memory, and what happens around a step: checks, plan, results. The step is in step.cpp.
#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace shoal {
namespace {

constexpr int kPrefillQueries = 16;  // queries of one attention task

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

bool within(const std::int32_t* values, int n, int limit) {
  return std::all_of(values, values + n, [=](std::int32_t v) { return v >= 0 && v < limit; });
}

// Room for all linear layers.
std::size_t arena_bytes(const Config& c, Format format) {
  const auto linear = [&](int outputs, int inputs) {
    return panel_bytes(format, inputs) * (round_up(outputs, kPanel) / kPanel) + 64;
  };
  const int heads = c.heads * c.head_dim;
  const std::size_t layer = linear(heads + 2 * c.kv_heads * c.head_dim, c.width) +
                            linear(c.width, heads) + linear(c.width, c.mlp_width) +
                            linear(round_up(c.mlp_width, kPanel) * (c.gated ? 2 : 1), c.width);
  return layer * c.layers + linear(c.vocab, c.width);
}

// Unpacking float12 takes time that only a slow memory gives back.
Format choose_linear_format(const Config& c, Format format, const Kernels& kernels,
                            std::size_t cache_bytes) {
  if (format != Format::bf16 || kernels.bf16_weights != Format::float12)
    return format == Format::bf16 ? kernels.bf16_weights : format;
  return arena_bytes(c, Format::bf16) <= cache_bytes / 2 ? Format::bf16 : Format::float12;
}

}  // namespace

Model::Model(const Config& c, Format format, const Kernels* kernels, int num_blocks, int max_tokens,
             int threads, int spin_us, std::size_t cache_bytes)
    : config(c),
      layers(c.layers),
      format_(format),
      kv_format_(format == Format::f32 ? Format::f32 : Format::bf16),
      linear_format_(choose_linear_format(c, format, *kernels, cache_bytes)),
      kernels_(kernels),
      num_blocks_(num_blocks),
      max_tokens_(max_tokens),
      arena_(arena_bytes(c, linear_format_)),
      members_(threads),
      team_(threads, spin_us) {
  qkv_stride_ = round_up((c.heads + 2 * c.kv_heads) * c.head_dim, kPanel);
  attention_stride_ = round_up(c.heads * c.head_dim, kPanel);
  width_stride_ = round_up(c.width, kPanel);
  mlp_stride_ = round_up(c.mlp_width, kPanel);
  widest_ = round_up(std::max({attention_stride_, width_stride_, mlp_stride_}), kFixedBlock);
  head_k_bytes_ = round_up(static_cast<int>(panel_bytes(kv_format_, c.head_dim)), 64);
  head_bytes_ = head_k_bytes_ + panel_bytes(kv_format_, kBlock) * ((c.head_dim + 15) / 16);
  layer_block_bytes_ = head_bytes_ * c.kv_heads;
  const auto floats = [&](int stride) {
    return Region(sizeof(float) * static_cast<std::size_t>(stride) * max_tokens);
  };
  kv_ = Region(layer_block_bytes_ * num_blocks * c.layers);
  x_ = floats(width_stride_);
  qkv_ = floats(qkv_stride_);
  attention_ = floats(attention_stride_);
  mlp_ = floats(mlp_stride_);
  ready_ = floats(widest_);
  ready_scales_.resize(max_tokens);
  rope_ = Region(sizeof(float) * 2 * c.inverse_frequencies.size() * c.max_positions);
  for (Member& member : members_) {
    member.rows = Region(sizeof(float) * static_cast<std::size_t>(widest_) * kFewRows);
    member.scratch = Region(sizeof(float) * kScratchRows * kScratchPanels * kPanel);
    member.row.resize(widest_);
    member.scales.resize(kFewRows);
  }
}

std::size_t Model::weight_bytes() const {
  std::size_t bytes = head.memory_bytes();
  bytes += embedding.data.bytes() + position_embedding.data.bytes();
  for (const Layer& layer : layers)
    bytes += layer.qkv.memory_bytes() + layer.output.memory_bytes() + layer.up.memory_bytes() +
             layer.down.memory_bytes();
  return bytes;
}

void Model::copy_block(int source, int target) {
  require(source >= 0 && source < num_blocks_ && target >= 0 && target < num_blocks_,
          "block id outside the cache");
  team_.settle(0);
  for (int i = 0; i < config.layers; ++i)
    std::memcpy(kv_at(i) + target * layer_block_bytes_, kv_at(i) + source * layer_block_bytes_,
                layer_block_bytes_);
}

void Model::check(const StepInputs& in) const {
  require(in.tokens > 0 && in.tokens <= max_tokens_, "number of tokens outside 1..max_tokens");
  require(in.rows > 0 && in.row_starts[0] == 0 && in.row_starts[in.rows] == in.tokens,
          "row_starts must run from 0 to the number of tokens");
  require(within(in.token_ids, in.tokens, config.vocab), "token id outside the vocabulary");
  require(within(in.positions, in.tokens, config.max_positions), "position outside max_positions");
  require(within(in.slots, in.tokens, num_blocks_ * kBlock), "slot outside the cache");
  require(within(in.head_tokens, in.heads, in.tokens), "logit index outside the tokens");
  require(!in.target_ids || within(in.target_ids, in.heads, config.vocab),
          "target id outside the vocabulary");
  for (int r = 0; r < in.rows; ++r) {
    const int count = in.row_starts[r + 1] - in.row_starts[r];
    const int context = in.context_lens[r];
    require(count > 0 && context >= count, "a row needs tokens, and a context that holds them");
    require((context + kBlock - 1) / kBlock <= in.table_width, "context longer than block table");
    require(within(in.block_tables + static_cast<std::size_t>(r) * in.table_width,
                   (context + kBlock - 1) / kBlock, num_blocks_),
            "block id outside the cache");
  }
}

void Model::begin(const StepInputs& in, const StepOutputs& out) {
  // 1. Copy the integers: a worker that leaves late may look at them after step() has returned.
  in_ = in;
  out_ = out;
  const std::size_t table = static_cast<std::size_t>(in.rows) * in.table_width;
  integers_.clear();
  integers_.reserve(3 * in.tokens + 2 * in.rows + 1 + table + 2 * in.heads);
  const auto keep = [&](const std::int32_t*& from, std::size_t n) {
    if (!from) return;
    integers_.insert(integers_.end(), from, from + n);
    from = integers_.data() + integers_.size() - n;
  };
  keep(in_.token_ids, in.tokens);
  keep(in_.positions, in.tokens);
  keep(in_.slots, in.tokens);
  keep(in_.row_starts, in.rows + 1);
  keep(in_.context_lens, in.rows);
  keep(in_.block_tables, table);
  keep(in_.head_tokens, in.heads);
  keep(in_.target_ids, in.heads);
  // 2. Cut the rows into attention tasks.
  chunks_.clear();
  one_token_rows_ = in.tokens == in.rows;
  int longest = 0;
  const int group = config.heads / config.kv_heads;
  const int size = std::max(1, kPrefillQueries / group);
  for (int r = 0; r < in.rows; ++r) {
    longest = std::max(longest, in.context_lens[r]);
    for (int t = in.row_starts[r]; t < in.row_starts[r + 1]; t += size)
      chunks_.push_back({r, t, std::min(size, in.row_starts[r + 1] - t)});
  }
  // Heads whose keys and values lie side by side, as many as leave everybody a few tasks.
  const int wanted = 4 * team_.threads() / static_cast<int>(chunks_.size()) + 1;
  heads_at_once_ = std::max(1, config.kv_heads / wanted);
  while (config.kv_heads % heads_at_once_ != 0) --heads_at_once_;
  // 3. Room for scores and for what the head keeps.
  const int head_chunks = (head.panels() + kScratchPanels - 1) / kScratchPanels;
  chunk_max_.resize(static_cast<std::size_t>(head_chunks) * in.heads);
  chunk_sum_.resize(chunk_max_.size());
  for (Member& member : members_) {
    if (member.attention.size() < attend_scratch_floats(longest))
      member.attention.resize(attend_scratch_floats(longest + 256));
    member.top_ids.assign(static_cast<std::size_t>(out.top) * in.heads, -1);
    member.top_values.assign(static_cast<std::size_t>(out.top) * in.heads, -INFINITY);
  }
  // 4. Cosines and sines up to the last position, as float32 angles like the PyTorch models.
  const int half = static_cast<int>(config.inverse_frequencies.size());
  const int last = *std::max_element(in.positions, in.positions + in.tokens);
  for (; half > 0 && rope_filled_ <= last; ++rope_filled_)
    for (int i = 0; i < half; ++i) {
      const float angle = static_cast<float>(rope_filled_) * config.inverse_frequencies[i];
      float* at = rope_.as<float>() + static_cast<std::size_t>(rope_filled_) * 2 * half;
      at[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * config.rope_scaling;
      at[half + i] = static_cast<float>(std::sin(static_cast<double>(angle))) * config.rope_scaling;
    }
}

void Model::step(const StepInputs& in, const StepOutputs& out) {
  check(in);
  team_.settle(config.layers * kStagesPerLayer + 4);
  begin(in, out);
  // A step this small is over before a sleeping thread wakes up.
  const double products = static_cast<double>(in.tokens) * weight_bytes();
  team_.run([](void* self, int member) { static_cast<Model*>(self)->run(member); }, this,
            products > 1e6);
  finish_head();
}

// Merges what members and chunks of the vocabulary have found, in an order that is always the same.
void Model::finish_head() {
  const int top = out_.top;
  for (int r = 0; r < in_.heads; ++r) {
    for (int i = 0; i < top; ++i) {
      std::int32_t* id = nullptr;
      float* value = nullptr;
      for (Member& member : members_)
        for (int j = 0; j < top; ++j) {
          std::int32_t& other = member.top_ids[static_cast<std::size_t>(r) * top + j];
          float& logit = member.top_values[static_cast<std::size_t>(r) * top + j];
          if (other < 0) continue;
          if (id && (logit < *value || (logit == *value && other > *id))) continue;
          id = &other;
          value = &logit;
        }
      const std::size_t at = static_cast<std::size_t>(r) * top + i;
      out_.top_ids[at] = id ? *id : 0;
      if (out_.top_values) out_.top_values[at] = id ? *value : NAN;
      if (id) *id = -1;
    }
    if (!out_.log_sum_exp) continue;
    const std::size_t chunks = chunk_max_.size() / in_.heads;
    float max = chunk_max_[r];
    for (std::size_t c = 1; c < chunks; ++c) max = std::max(max, chunk_max_[c * in_.heads + r]);
    double sum = 0.0;
    for (std::size_t c = 0; c < chunks; ++c)
      sum += static_cast<double>(chunk_sum_[c * in_.heads + r]) *
             std::exp(static_cast<double>(chunk_max_[c * in_.heads + r]) - max);
    out_.log_sum_exp[r] = static_cast<float>(max + std::log(sum));
  }
}

}  // namespace shoal
