// What happens around the stages of a step: checks, the tasks of attention, room for results.
#include <algorithm>
#include <cmath>

#include "formats/int16_block.h"
#include "model/model.h"
#include "require.h"

namespace shoal {
namespace {

constexpr int kPrefillQueries = 16;  // queries of one attention task

bool within(const std::int32_t* values, int n, int limit) {
  return std::all_of(values, values + n, [=](std::int32_t v) { return v >= 0 && v < limit; });
}

}  // namespace

void Model::step(const StepInputs& in, const StepOutputs& out) {
  check(in);
  // With adapters a linear layer has one more stage, with a lens a layer.
  const int per_layer = (in.adapter_ids ? 4 : 0) + (in.num_lens_rows > 0);
  pool_.wait_idle(num_stages_ + per_layer * static_cast<int>(layers_.size()));
  plan(in, out);
  // A step this small is over before a sleeping thread wakes up.
  const double products = static_cast<double>(in.num_tokens) * weight_bytes();
  pool_.run([](void* self, int worker) { static_cast<Model*>(self)->run(worker); }, this,
            products > 1e6);
  finish_head();
}

void Model::check(const StepInputs& in) const {
  require(in.num_tokens > 0 && in.num_tokens <= max_tokens_,
          "number of tokens outside 1..max_tokens");
  require(in.num_rows > 0 && in.row_starts[0] == 0 && in.row_starts[in.num_rows] == in.num_tokens,
          "row_starts must run from 0 to the number of tokens");
  require(within(in.token_ids, in.num_tokens, config.vocab_size),
          "token id outside the vocabulary");
  require(within(in.positions, in.num_tokens, config.max_position_embeddings),
          "position outside max_position_embeddings");
  require(within(in.slots, in.num_tokens, num_blocks_ * kBlock), "slot outside the cache");
  require(in.num_logit_rows <= max_tokens_, "more logit indices than max_tokens");
  require(within(in.logit_indices, in.num_logit_rows, in.num_tokens),
          "logit index outside the tokens");
  require(in.num_lens_rows <= max_tokens_, "more lens indices than max_tokens");
  require(within(in.lens_indices, in.num_lens_rows, in.num_tokens),
          "lens index outside the tokens");
  require(in.num_hidden_rows <= max_tokens_, "more hidden indices than max_tokens");
  require(within(in.hidden_indices, in.num_hidden_rows, in.num_tokens),
          "hidden index outside the tokens");
  require(config.has_head || in.num_logit_rows + in.num_lens_rows == 0,
          "the model has no head, so no token has logits");
  require(in.num_lens_rows == 0 || !in.target_ids, "a step with a lens takes no targets");
  require(!in.target_ids || within(in.target_ids, in.num_logit_rows, config.vocab_size),
          "target id outside the vocabulary");
  for (int r = 0; r < in.num_rows; ++r) {
    const int count = in.row_starts[r + 1] - in.row_starts[r];
    const int context = in.context_lens[r];
    require(count > 0 && context >= count, "a row needs tokens, and a context that holds them");
    require(!in.adapter_ids || in.adapter_ids[r] == 0 || adapters_.count(in.adapter_ids[r]),
            "a row has an adapter that is not loaded");
    require((context + kBlock - 1) / kBlock <= in.table_width, "context longer than block table");
    require(within(in.block_tables + static_cast<std::size_t>(r) * in.table_width,
                   (context + kBlock - 1) / kBlock, num_blocks_),
            "block id outside the cache");
  }
}

void Model::plan(const StepInputs& in, const StepOutputs& out) {
  in_ = in;
  out_ = out;
  const int lens_rows = static_cast<int>(layers_.size()) * in.num_lens_rows;
  in_.num_logit_rows += lens_rows;
  copy_integers();
  make_room_for(std::max(in.num_tokens + lens_rows, in_.num_logit_rows));
  plan_adapters();
  const int longest = plan_attention();
  const int head_chunks = (head_.panels() + kScratchPanels - 1) / kScratchPanels;
  chunk_max_.resize(static_cast<std::size_t>(head_chunks) * in_.num_logit_rows);
  chunk_sum_.resize(chunk_max_.size());
  for (Worker& worker : workers_) {
    if (worker.attention.size() < attend_scratch_floats(longest))
      worker.attention.resize(attend_scratch_floats(longest + 256));
    worker.top_ids.assign(static_cast<std::size_t>(out.top) * in_.num_logit_rows, -1);
    worker.top_values.assign(static_cast<std::size_t>(out.top) * in_.num_logit_rows, -INFINITY);
  }
  const int last_position = *std::max_element(in.positions, in.positions + in.num_tokens);
  for (RotaryTable& table : rotaries_) table.fill(last_position);
}

// A worker that leaves late may look at the integers after step() has returned.
void Model::copy_integers() {
  const std::size_t tokens = in_.num_tokens, rows = in_.num_rows, logit_rows = in_.num_logit_rows;
  const std::size_t table = rows * in_.table_width;
  integers_.clear();
  const std::size_t lens_rows = in_.num_lens_rows * layers_.size();
  integers_.reserve(3 * tokens + 2 * rows + 1 + table + 2 * logit_rows + in_.num_lens_rows +
                    in_.num_hidden_rows);
  const auto keep = [&](const std::int32_t*& from, std::size_t n) {
    if (!from) return;
    integers_.insert(integers_.end(), from, from + n);
    from = integers_.data() + integers_.size() - n;
  };
  keep(in_.token_ids, tokens);
  keep(in_.positions, tokens);
  keep(in_.slots, tokens);
  keep(in_.row_starts, rows + 1);
  keep(in_.context_lens, rows);
  keep(in_.block_tables, table);
  keep(in_.lens_indices, in_.num_lens_rows);
  keep(in_.hidden_indices, in_.num_hidden_rows);
  keep(in_.target_ids, logit_rows - lens_rows);
  keep(in_.logit_indices, logit_rows - lens_rows);
  for (std::size_t i = 0; i < lens_rows; ++i)
    integers_.push_back(static_cast<std::int32_t>(tokens + i));
}

// Of what a head with a lens needs beyond the tokens.
void Model::make_room_for(int rows) {
  const auto grow = [&](Region& region, int stride) {
    const std::size_t bytes = sizeof(float) * static_cast<std::size_t>(stride) * rows;
    if (region.bytes() < bytes) region = Region(bytes);
  };
  if (rows <= max_tokens_) return;
  grow(x_, hidden_stride_);
  grow(embedded_, embedded_stride_);
  grow(prepared_, std::max(round_up(hidden_stride_, Int16Block::kInputs),
                           round_up(embedded_stride_, Int16Block::kInputs)));
}

// Cuts the rows into attention tasks; returns the longest context.
int Model::plan_attention() {
  chunks_.clear();
  decode_only_ = in_.num_tokens == in_.num_rows;
  int longest = 0;
  const int size = std::max(1, kPrefillQueries / max_group_);
  for (int r = 0; r < in_.num_rows; ++r) {
    longest = std::max(longest, in_.context_lens[r]);
    for (int t = in_.row_starts[r]; t < in_.row_starts[r + 1]; t += size)
      chunks_.push_back({r, t, std::min(size, in_.row_starts[r + 1] - t)});
  }
  return longest;
}

}  // namespace shoal
