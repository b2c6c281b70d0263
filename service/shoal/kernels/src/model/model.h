// A decoder with its weights, KV cache and threads; one step of it is one call.
//   model.cpp    memory
//   weights.cpp  weights by role
//   plan.cpp     what happens before a step's stages
//   step.cpp     the stages; linear.cpp, attention.cpp, experts.cpp, head.cpp: the tasks of a stage
// Called by bindings/model_bindings.cpp.
#pragma once
#include <string>
#include <vector>

#include "linear/packed_matrix.h"
#include "model/config.h"
#include "model/experts.h"
#include "model/layer.h"
#include "threads/thread_pool.h"

namespace shoal {

constexpr int kFewRows = 8;  // up to here each thread prepares a linear layer's rows for itself
constexpr int kScratchRows = kMaxLinearRows;  // rows of a thread's scratch at most
constexpr int kExpertRows = 48;  // rows of an expert's task at most
constexpr int kScratchPanels = 32;  // panels of it; also the chunks of the vocabulary in the head

// Tokens of all rows one after the other. Every pointer is read before step() returns.
struct StepInputs {
  int num_tokens, num_rows, table_width, num_logit_rows;
  const std::int32_t *token_ids, *positions, *slots;  // [num_tokens]
  const std::int32_t *row_starts;                     // [num_rows + 1]
  const std::int32_t *context_lens;   // [num_rows], this step's tokens included
  const std::int32_t *block_tables;   // [num_rows, table_width]
  const std::int32_t *logit_indices;  // [num_logit_rows]: tokens whose logits are computed
  const std::int32_t *target_ids;     // [num_logit_rows] or null
};

// Where results go; null for what is not requested.
struct StepOutputs {
  float* logits;  // [num_logits, vocab_size]: of the first num_logits logit rows
  int num_logits;
  int top;  // best ids per logit row, among the token ids
  std::int32_t* top_ids;  // [num_logit_rows, top], best first; of equal logits the lower id
  float* top_values;      // the same
  float* log_sum_exp;     // [num_logit_rows], over the whole vocabulary
  float* targets;         // [num_logit_rows]: logit of target_ids
  float* hidden;          // [num_logit_rows, hidden_size]: after the last norm
};

class Model {
 public:
  // bf16 weights stay so where half of `cache_bytes` holds them all; larger ones are kept as the
  // kernel set prefers. Throws std::invalid_argument for sizes that contradict each other.
  Model(const ModelConfig& config, Format format, const Kernels* kernels, int num_blocks,
        int max_tokens, int threads, int spin_us, std::size_t cache_bytes);

  const ModelConfig config;

  // A weight by its role (shoal/model/spec.py): "q.weight" of layer 0, "embedding" of none (-1).
  // Vectors are matrices of one row. Throws std::invalid_argument for a role that the model lacks
  // or a matrix that does not fit.
  void set_weight(int layer, const std::string& role, const Matrix& matrix);
  // Throws std::invalid_argument for inputs outside their range.
  void step(const StepInputs& inputs, const StepOutputs& outputs);
  void copy_block(int source, int target);
  void release_block(int block);  // its memory goes back to the system
  std::size_t weight_bytes() const;
  std::size_t block_bytes() const { return block_bytes_; }  // in all layers
  const Kernels* kernels() const { return kernels_; }

 private:
  struct Worker {  // what one thread writes to
    Region rows, scratch;
    Region expert_rows;  // as a linear layer reads them
    std::vector<float> row, scales, expert_scales, attention, top_values;
    std::vector<std::int32_t> top_ids;
  };
  struct Chunk {  // consecutive tokens of one row whose attention is one task per KV head
    int row, first, count;
  };
  struct Input {  // rows a linear layer reads: as they are, or through a norm
    const float* rows;
    std::size_t stride;
    const Norm* norm;            // may be absent
    const std::int32_t* select;  // which rows, null = all in order
    int count, width;
    Format format;
  };
  struct PreparedRows {
    const void* x;
    std::size_t stride;
    const float* scale;
  };
  struct Split {
    int row_block, row_blocks, panel_chunk, chunks;
    int tasks() const { return row_blocks * chunks; }
  };
  struct LinearTask {
    int row, rows, p0, p1;
  };
  struct Target {  // where a matrix with that role goes
    PackedMatrix* matrix;
    int first, outputs;
    PackedMatrix::Part part;
  };

  // model.cpp
  void add_layer(const LayerConfig& layer);
  void add_experts(const MlpConfig& mlp, Layer& layer);
  void make_room_for_experts();
  int rotary_table(const RotaryConfig& rotary);
  // weights.cpp
  Target linear_target(int layer, const std::string& name);
  Norm& norm_target(int layer, const std::string& name);
  // plan.cpp
  void check(const StepInputs& in) const;
  void plan(const StepInputs& in, const StepOutputs& out);
  void copy_integers();
  int plan_attention();
  // step.cpp
  void run(int worker);
  void run_layer(int worker, int& stage, const Layer& layer);
  void embed(int worker, int token);
  void project_embeddings(int worker, int& stage);
  void finish_embedding(int worker, int token);
  void finish_branch(const Layer& layer, const Norm& post_norm, int row);
  void add_branch(int worker, int& stage, const Input& input, const Layer& layer,
                  const PackedMatrix& weights, const Norm& post_norm);
  // linear.cpp
  const FormatKernels& format_kernels(Format format) const {
    return kernels_->formats[static_cast<int>(format)];
  }
  void apply_norm(const Norm& norm, const float* x, int width, float* out) const;
  bool reads_in_place(const Input& input) const;
  std::size_t row_bytes(const Input& input) const;
  void prepare_row(Worker& worker, const Input& input, int row, char* to, float* scale) const;
  PreparedRows prepare_all(Worker& worker, const Input& input, char* to, float* scales) const;
  template <class Task>  // prepared_input.h
  void with_input(int worker, int& stage, const Input& input, int tasks, const Task& task);
  Split split(int rows, int panels, int k) const;
  LinearTask task_at(const Split& split, int index, int rows, int panels) const;
  LinearArgs args(const PackedMatrix& weights, const PreparedRows& rows,
                  const LinearTask& task) const;
  void linear(int worker, int& stage, const Input& input, const PackedMatrix& weights, float* out,
              std::size_t out_stride, bool add);
  void activate(const MlpConfig& mlp, const LinearArgs& a, float* to, int to_stride,
                int to_row) const;
  void mlp_up(int worker, int& stage, const Layer& layer);
  // experts.cpp
  Target mlp_target(PackedMatrix& up, PackedMatrix& down, bool gated, int intermediate_size,
                    const std::string& name);
  Target expert_target(Layer& layer, const std::string& name);
  void route(const Layer& layer);
  void plan_experts(const Layer& layer);
  PreparedRows gather(Worker& worker, const Input& input, const PreparedRows& rows, Format format,
                      const std::int32_t* tokens, int count) const;
  void experts_up(int worker, int& stage, const Layer& layer);
  void experts_down(int worker, int& stage, const Layer& layer);
  // attention.cpp
  Rotation rotation(const Layer& layer, int token) const;
  void store_head(const Layer& layer, int token, int kv_head);
  void norm_all_heads(Worker& worker, const Layer& layer, int token);
  void store_token(int worker, const Layer& layer, int token);
  int heads_at_once(const Layer& layer) const;
  void attend(int worker, const Layer& layer, int task, bool store, bool prefetch_next_head);
  // head.cpp
  void run_head(int worker, int& stage);
  void head_task(Worker& worker, const PreparedRows& rows, int task);
  void keep_top(Worker& worker, int row, const float* logits, int count, int first_id) const;
  void finish_head();
  void finish_top(int row);

  const Format format_, kv_format_, linear_format_;
  const Kernels* const kernels_;
  const int num_blocks_, max_tokens_;
  std::size_t block_bytes_ = 0;  // a KV block of all layers, one layer after the other
  Arena arena_;  // of all linear layers
  std::vector<Layer> layers_;
  std::vector<RotaryTable> rotaries_;
  Norm embedding_norm_, final_norm_;
  PackedMatrix head_, embedding_projection_, head_projection_;  // the latter with embedding_size
  Table embedding_, position_embedding_;  // the first one absent with a tied head
  int max_group_ = 1, num_stages_ = 0;
  int qkv_stride_ = 0, attention_stride_ = 0, hidden_stride_ = 0, mlp_stride_ = 0, widest_ = 0;
  int embedded_stride_ = 0;
  // The KV cache, and per token: the residual, queries with keys and values, mixed values, the
  // MLP's inside, a branch before its norm, embeddings and the head's input where they have a width
  // of their own, rows as a linear layer reads them.
  Region kv_, x_, qkv_, attention_, mlp_, branch_, embedded_, prepared_;
  std::vector<float> prepared_scales_;
  // Of experts: per token the router's logits, per routed row the inside and the output.
  Region router_logits_, expert_inside_, expert_out_;
  int router_stride_ = 0, expert_stride_ = 0, max_expert_rows_ = 0;  // the latter of one token
  std::vector<Worker> workers_;

  // The step under way; threads read only this, never the caller's arrays.
  StepInputs in_{};
  StepOutputs out_{};
  std::vector<std::int32_t> integers_;
  std::vector<Chunk> chunks_;
  std::vector<float> chunk_max_, chunk_sum_;
  Routing routing_;  // of the layer under way
  std::vector<ExpertTaskCounts> expert_tasks_;  // of each layer
  bool decode_only_ = false;  // one token per row
  ThreadPool pool_;           // last: its threads stop before the rest goes
};

}  // namespace shoal
