// A decoder of the Llama or GPT-2 family and its KV cache; one step of it is one call.
#pragma once
#include <memory>
#include <vector>

#include "team.h"
#include "weights.h"

namespace shoal {

constexpr int kFewRows = 8;         // up to here each thread prepares a linear's rows for itself
constexpr int kScratchRows = kMaxLinearRows;  // rows of a thread's scratch at most
constexpr int kScratchPanels = 32;  // panels of it; also the chunks of the vocabulary in the head
constexpr int kStagesPerLayer = 10;

struct Config {
  int vocab, width, layers, heads, kv_heads, head_dim, mlp_width, max_positions;
  float eps;
  bool layer_norm, gated, tied, learned_positions;
  Activation activation;
  float query_scale;   // scores are multiplied by this
  int window;          // keys a token sees at most, 0 = all
  float soft_cap;      // of attention scores, 0 = off
  float rope_scaling;  // factor on cosines and sines
  std::vector<float> inverse_frequencies;  // empty without rotation
};

struct Norm {
  std::vector<float> weight, bias;  // padded; bias empty for RMS norm
};

struct Layer {
  Norm attention_norm, mlp_norm;
  std::vector<float> query_norm, key_norm;  // per head, empty without
  Packed qkv, output, up, down;
};

// A step: tokens of all rows one after the other. Every pointer is read before step() returns.
struct StepInputs {
  int tokens, rows, table_width, heads;
  const std::int32_t *token_ids, *positions, *slots;       // [tokens]
  const std::int32_t *row_starts;                          // [rows + 1]
  const std::int32_t *context_lens;                        // [rows], this step's tokens included
  const std::int32_t *block_tables;                        // [rows, table_width]
  const std::int32_t *head_tokens;                         // [heads]: tokens the head gets
  const std::int32_t *target_ids;                          // [heads] or null
};

// Where results go; null for what nobody asked for.
struct StepOutputs {
  float* logits;       // [num_logits, vocab]: of the first num_logits head tokens
  int num_logits;
  int top;             // best ids per head token; ids [heads, top], values alike
  std::int32_t* top_ids;
  float* top_values;
  float* log_sum_exp;  // [heads]
  float* targets;      // [heads]: logit of target_ids
  float* hidden;       // [heads, width]: after the last norm
};

class Model {
 public:
  // Weights of which half of `cache_bytes` holds all stay bf16; larger ones are kept as the kernels
  // like it.
  Model(const Config& config, Format format, const Kernels* kernels, int num_blocks, int max_tokens,
        int threads, int spin_us, std::size_t cache_bytes);

  Config config;
  std::vector<Layer> layers;
  Norm final_norm;
  Packed head;
  Table embedding, position_embedding;

  // Throws std::invalid_argument for inputs outside their range.
  void step(const StepInputs& inputs, const StepOutputs& outputs);
  void copy_block(int source, int target);
  std::size_t weight_bytes() const;
  std::size_t block_bytes() const { return layer_block_bytes_ * config.layers; }
  const Kernels* kernels() const { return kernels_; }
  Format format() const { return format_; }
  // What linear layers begin as; a `Packed` may have become another.
  Format linear_format() const { return linear_format_; }
  Packed make_linear(int outputs, int inputs) { return {linear_format_, outputs, inputs, &arena_}; }

 private:
  struct Member {  // what one thread of the team writes to
    Region rows, scratch;
    std::vector<float> row, scales, attention, top_values;
    std::vector<std::int32_t> top_ids;
  };
  struct Chunk {  // consecutive tokens of one row whose attention is one task per KV head
    int row, first, count;
  };
  struct Input {  // rows a linear layer reads: as they are, or through a norm
    const float* rows;
    std::size_t stride;
    const Norm* norm;
    const std::int32_t* select;  // which rows, null = all in order
    int count, width;
    Format format;
  };
  struct Ready {
    const void* x;
    std::size_t stride;
    const float* scale;
  };
  struct Split {
    int row_block, row_blocks, panel_chunk, chunks;
    int tasks() const { return row_blocks * chunks; }
  };

  void check(const StepInputs& in) const;
  void begin(const StepInputs& in, const StepOutputs& out);
  void run(int member);
  void embed(int token);
  void store_token(int layer, int token);
  void store_head(const Layer& layer, char* kv, int token, int kv_head);
  void attend(int member, int layer, int task, bool store, bool goes_on);
  Split split(int rows, int panels, int k) const;
  bool reads_in_place(const Input& input) const;
  std::size_t row_bytes(const Input& input) const;
  void prepare_row(Member& member, const Input& input, int row, char* to, float* scale) const;
  Ready prepare_all(Member& member, const Input& input, char* to, float* scales) const;
  template <class Task>
  void with_input(int member, int& stage, const Input& input, int tasks, const Task& task);
  void linear(int member, int& stage, const Input& input, const Packed& weights, float* out,
              std::size_t out_stride, bool add);
  void mlp_up(int member, int& stage, const Input& input, const Packed& weights);
  void run_head(int member, int& stage);
  void head_task(Member& member, const Ready& ready, int task);
  void keep_top(Member& member, int row, const float* logits, int count, int first_id) const;
  void finish_head();
  LinearArgs args(const Packed& weights, const Ready& ready, int row, int rows, int p0,
                  int p1) const;
  char* kv_at(int layer) const { return kv_.data() + layer * layer_block_bytes_ * num_blocks_; }

  const Format format_, kv_format_, linear_format_;
  const Kernels* const kernels_;
  const int num_blocks_, max_tokens_;
  Arena arena_;  // of all linear layers
  int qkv_stride_, attention_stride_, width_stride_, mlp_stride_, widest_;
  std::size_t head_k_bytes_, head_bytes_, layer_block_bytes_;
  Region kv_, x_, qkv_, attention_, mlp_, ready_, rope_;
  std::vector<float> ready_scales_;
  int rope_filled_ = 0;
  std::vector<Member> members_;

  // The step under way; workers read only this, never the caller's arrays.
  StepInputs in_{};
  StepOutputs out_{};
  std::vector<std::int32_t> integers_, row_of_;
  std::vector<Chunk> chunks_;
  std::vector<float> chunk_max_, chunk_sum_;
  bool one_token_rows_ = false;
  int heads_at_once_ = 1;  // KV heads of a row in one attention task
  Team team_;  // last: its threads stop before the rest goes
};

}  // namespace shoal
