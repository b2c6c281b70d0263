// A decoder with its weights, KV cache and threads; one step of it is one call.
//   model.cpp    memory
//   weights.cpp  weights by role
//   plan.cpp     what happens before a step's stages
//   step.cpp     the stages; linear.cpp, attention.cpp, short_conv.cpp, experts.cpp, head.cpp: their
//                tasks
//   adapters.cpp what adapters add to linear layers
// Called by bindings/model_bindings.cpp.
#pragma once
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "linear/packed_matrix.h"
#include "model/adapters.h"
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
  int num_tokens, num_rows, table_width, num_logit_rows, num_lens_rows, num_hidden_rows;
  const std::int32_t *token_ids, *positions, *slots;  // [num_tokens]
  const std::int32_t *row_starts;                     // [num_rows + 1]
  const std::int32_t *context_lens;   // [num_rows], this step's tokens included
  const std::int32_t *block_tables;   // [num_rows, table_width]
  const std::int32_t* logit_indices;  // [num_logit_rows]: tokens whose logits are computed
  const std::int32_t* lens_indices;   // [num_lens_rows]: also of their residual after each layer
  const std::int32_t* hidden_indices;  // [num_hidden_rows]: tokens whose final vectors are wanted
  const std::int32_t *target_ids;     // [num_logit_rows] or null
  const std::int32_t* adapter_ids;    // [num_rows] or null; 0 = none
};

// Where results go; null for what is not requested. R rows: the logit rows, then those of the lens,
// first all of them after the first layer.
struct StepOutputs {
  float* logits;  // [num_logits, vocab_size]: of the first num_logits of the R rows
  int num_logits;
  int top;  // best ids per row, among the token ids
  std::int32_t* top_ids;  // [R, top], best first; of equal logits the lower id
  float* top_values;      // the same
  float* log_sum_exp;     // [num_log_sum_exp], over the whole vocabulary, of the last of the R rows
  int num_log_sum_exp;
  float* targets;         // [num_logit_rows]: logit of target_ids
  float* hidden;          // [num_hidden_rows, hidden_size]: after the last norm
};

// How weights are kept. int8 and int4: integers in groups of 32, with int4 the embedding and the
// head in 8 bits. blocks: quantized blocks of a file in the format that holds them, other weights
// as they are stored.
enum class Dtype : int { f32, bf16, int8, int4, blocks };

class Model {
 public:
  // bf16 weights stay so where half of `cache_bytes` holds them all; larger ones are kept as the
  // kernel set prefers. Keys and values are bf16 unless weights are float32, or all int8. Throws
  // std::invalid_argument for sizes that contradict each other.
  Model(const ModelConfig& config, Dtype dtype, const Kernels* kernels, int num_blocks,
        int max_tokens, int threads, int spin_us, std::size_t cache_bytes, bool int8_kv);

  const ModelConfig config;

  // What a weight is stored as decides which format its matrix takes, together with the other
  // weights of that matrix: to be called for each before any is set.
  void propose_format(int layer, const std::string& role, Source source);
  // A weight by its role (shoal/model/spec.py): "q.weight" of layer 0, "embedding" of none (-1).
  // Vectors are matrices of one row. Throws std::invalid_argument for a role that the model lacks
  // or a matrix that does not fit.
  void set_weight(int layer, const std::string& role, const Matrix& matrix);
  // Throws std::invalid_argument for inputs outside their range.
  void step(const StepInputs& inputs, const StepOutputs& outputs);
  void copy_block(int source, int target);
  void release_block(int block);  // its memory goes back to the system
  // Throws std::invalid_argument for matrices that do not fit the model, or an id that is taken.
  void load_adapter(int id, const std::vector<AdapterInput>& inputs);
  void unload_adapter(int id);  // unknown ids are ignored
  std::size_t weight_bytes() const;
  std::size_t block_bytes() const { return block_bytes_; }  // in all layers
  const Kernels* kernels() const { return kernels_; }

 private:
  struct Worker {  // what one thread writes to
    Region rows, scratch;
    Region adapted, inner, delta;  // of adapters: rows that A reads, what it gives, what B gives
    Region expert_rows;            // as a linear layer reads them
    std::vector<float> row, attention, top_values;
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
  Format format_for(const std::string& name, Source source) const;
  Target linear_target(int layer, const std::string& name);
  Norm& norm_target(int layer, const std::string& name);
  // plan.cpp
  void check(const StepInputs& in) const;
  void plan(const StepInputs& in, const StepOutputs& out);
  void copy_integers();
  void make_room_for(int rows);
  int plan_attention();
  // step.cpp
  void run(int worker);
  void run_layer(int worker, int& stage, const Layer& layer);
  void run_attention(int worker, int& stage, const Layer& layer);
  void embed(int worker, int token);
  void project_embeddings(int worker, int& stage);
  void finish_embedding(int worker, int token);
  void keep_residuals(int worker, int& stage, int layer);
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
  void prepare_row(Worker& worker, const Input& input, int row, char* to) const;
  PreparedRows prepare_all(Worker& worker, const Input& input, char* to) const;
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
  // adapters.cpp
  AdaptedLinear pack_adapter(const AdapterInput& input, Adapter& adapter);
  std::size_t inner_bytes() const;
  void plan_adapters();
  int compute_inner(int worker, int& stage, const Input& input, const PackedMatrix& weights);
  void add_adapters(Worker& worker, int number, const LinearTask& task, float* out,
                    std::size_t out_stride) const;
  void add_part(Worker& worker, const AdapterPart& part, int place, int rows,
                const LinearTask& task, float* out, std::size_t out_stride) const;
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
  void attend(int worker, const Layer& layer, int task, bool store, bool has_next);
  void prefetch_keys(const Layer& layer, std::size_t next, AttendArgs& args) const;
  // short_conv.cpp
  void set_conv(Layer& layer, const std::string& role, const Matrix& matrix);
  void convolve(int worker, int& stage, const Layer& layer);
  void convolve_token(const Layer& layer, int row, int token, int first, int channels);
  float* conv_input(int token) const;
  float* conv_values(const Layer& layer, int block, int offset) const;
  // head.cpp
  void write_hidden(int worker, int& stage);
  void run_head(int worker, int& stage);
  void head_task(Worker& worker, const PreparedRows& rows, int task);
  void keep_top(Worker& worker, int row, const float* logits, int count, int first_id) const;
  void finish_head();
  void finish_top(int row);

  const Dtype dtype_;
  const KvFormat kv_format_;
  const Format linear_format_, adapter_format_;
  const Kernels* const kernels_;
  const int num_blocks_, max_tokens_;
  std::size_t block_bytes_ = 0;  // a KV block of all layers, one layer after the other
  Arena arena_;  // of all linear layers
  std::vector<Layer> layers_;
  std::vector<RotaryTable> rotaries_;
  Norm embedding_norm_, final_norm_;
  PackedMatrix head_, embedding_;                         // the second absent with a tied head
  PackedMatrix embedding_projection_, head_projection_;  // with embedding_size
  Table position_embedding_;
  std::vector<float> token_type_;  // [hidden_size] with num_token_types
  int max_group_ = 1, num_stages_ = 0;
  int qkv_stride_ = 0, attention_stride_ = 0, hidden_stride_ = 0, mlp_stride_ = 0, widest_ = 0;
  int embedded_stride_ = 0;
  // The KV cache, and per token: the residual, queries with keys and values (or b, c and x), mixed
  // values, those of convolutions, the MLP's inside, a branch before its norm, embeddings and the
  // head's input where they have a width of their own, rows as a linear layer reads them.
  Region kv_, x_, qkv_, attention_, convolved_, mlp_, branch_, embedded_, prepared_;
  // Of experts: per token the router's logits, per routed row the inside and the output.
  Region router_logits_, expert_inside_, expert_out_;
  int router_stride_ = 0, expert_stride_ = 0, max_expert_rows_ = 0;  // the latter of one token
  std::vector<Worker> workers_;

  std::map<int, Adapter> adapters_;                       // by id
  std::unordered_map<const PackedMatrix*, int> adapted_;  // linear layer -> its number in Adapter
  Region inner_;  // per token with an adapter: what its A gives
  int inner_width_ = 0;

  // The step under way; threads read only this, never the caller's arrays. The rows of the lens are
  // among its logit rows: their residuals lie behind those of the tokens.
  StepInputs in_{};
  StepOutputs out_{};
  std::vector<std::int32_t> integers_;
  std::vector<Chunk> chunks_;
  AdapterTokens adapter_tokens_;
  std::vector<float> chunk_max_, chunk_sum_;
  Routing routing_;  // of the layer under way
  std::vector<ExpertTaskCounts> expert_tasks_;  // of each layer
  bool decode_only_ = false;  // one token per row
  ThreadPool pool_;           // last: its threads stop before the rest goes
};

}  // namespace shoal
