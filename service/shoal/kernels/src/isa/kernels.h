// The table of kernels one instruction set provides, and the arguments they take.
// A kernel works on whole rows and whole 16-wide panels; it knows no model, no threads, no Python.
// Every kernel adds in an order that depends on the shape of one row alone, so a row's result never
// depends on the rows beside it. Called by model/ and sampling/; filled in by isa/table.h.
#pragma once
#include <cstddef>
#include <cstdint>

#include "formats/format.h"
#include "sizes.h"

namespace shoal {

enum class Activation : int { silu, gelu, gelu_tanh, relu, relu2 };
enum class NormKind : int { rms, layer };

// Keys and values in the cache. int8: integers with one scale per token and KV head.
enum class KvFormat : int { f32, bf16, int8 };
constexpr int kNumKvFormats = 3;

constexpr int kMaxLinearRows = 96;  // of one call

// out[m][16 * (p - p0) ...] (+)= x[m] . panel[p] + bias, rows 0..rows-1, panels p0..p1-1.
struct LinearArgs {
  const void* x;         // [rows] prepared rows of the format, see FormatKernels
  std::size_t x_stride;  // bytes between rows
  const char* panels;
  const float* w_scale;  // [16 * panels] where the format has one
  const float* bias;     // [16 * panels] or null
  int k, rows, p0, p1;
  float* out;
  std::size_t out_stride;  // floats between rows
  bool add;                // add to what is in `out` instead of replacing it
};

// How an instruction set multiplies one weight format. All null where it keeps no weights so.
struct FormatKernels {
  void (*linear)(const LinearArgs&);
  // Bytes of a row of `padded` floats (a multiple of 16) as the linear kernel reads it.
  std::size_t (*row_bytes)(int padded);
  // Turns such a row of `width` numbers into what the kernel reads. Null: it reads the floats.
  void (*prepare_row)(const float* x, int width, char* out);
};

// Attention of `tokens` consecutive tokens of one sequence, for the query heads of one KV head.
// K of a block is a panel [head_dim][16 keys]; V is one panel [16 keys][16 dims] per 16 dims.
struct AttendArgs {
  const char* kv;             // this layer's KV cache at this KV head of block 0
  std::size_t block_bytes;    // between blocks
  std::size_t v_offset;       // bytes from K to V
  std::size_t scales_offset;  // bytes from K to the scales, int8 only
  // What is read next: the same of `next_kv`, of these blocks; null = nothing that is known.
  const char* next_kv;
  const std::int32_t* next_table;
  int next_blocks;
  const std::int32_t* table;
  int head_dim, group, tokens;
  int context;             // number of keys the first token sees (itself included)
  int window;              // keys seen at most in each direction, itself included; 0 = all
  int last;                // keys of the row, where a token sees those behind it too; else 0
  float soft_cap;          // scores become cap * tanh(score / cap); 0 = off
  const float* alibi;      // [group]: slope * (key - query position) is added behind the cap; null
  const float* q;          // token t, head g at q + t * q_stride + g * head_dim, already scaled
  std::size_t q_stride;    // floats
  float* out;              // token t, head g at out + t * out_stride + g * head_dim
  std::size_t out_stride;  // floats
  float* scratch;          // attend_scratch_floats(context + tokens)
};

constexpr int kMaxTile = 6;  // rows of a register tile at most
constexpr std::size_t attend_scratch_floats(int keys) {
  return static_cast<std::size_t>(kMaxTile) * (round_up(keys, kBlock) + kPanel) + 64 * kPanel;
}

// Where a token's key and value go: one KV head's part of one block.
struct StoreKvArgs {
  char* k;
  char* v;
  int offset;  // place in the block
  int head_dim;
  const float* key;
  const float* value;
  float* scales;  // of the block: 16 of the keys, 16 of the values; int8 only
};

// A norm of single heads: [head_dim] weights, bias or null. weight is null where there is no norm.
struct HeadNorm {
  NormKind kind;
  float eps;
  const float *weight, *bias;
  bool after_rotary;  // otherwise before it
};

// Rotary positions of a head at one position; cos_sin is null where it does not turn.
struct Rotation {
  const float* cos_sin;  // [half] cosines, [half] sines
  int half;              // pairs of channels
  bool interleaved;      // pair i is channels 2i and 2i + 1; otherwise i and i + half
};

struct Kernels {
  const char* name;
  Format bf16_weights;  // how bf16 weights are kept: bf16, int16_block or bf16_packed12
  FormatKernels formats[kNumFormats];
  void (*attend[kNumKvFormats])(const AttendArgs&);
  void (*store_kv[kNumKvFormats])(const StoreKvArgs&);
  // Norms of a row. Rows are padded with zeros to a multiple of 16, weights too: `width` counts
  // real elements. bias may be null.
  void (*norm[2])(const float* x, const float* weight, const float* bias, float eps, int width,
                  float* out);  // by NormKind
  // The norm of one head in place and the rotation of its first 2 * half elements, in the norm's
  // order; then scaling.
  void (*rotate)(float* head, int head_dim, const HeadNorm& norm, const Rotation& rotation,
                 float scale);
  void (*clip)(float* x, int n, float limit);  // within +-limit; NaN stays NaN
  // pairs = [gate 16 | up 16] repeated; out[16 * i + j] = act(gate) * up.
  void (*gated)(const float* pairs, int groups, Activation act, float* out);
  void (*activate)(float* x, int groups, Activation act);
  void (*add)(const float* x, int groups, float factor, float* sum);  // sum += factor * x
  void (*scale)(float* x, int groups, float factor);
  void (*soft_cap)(float* x, int groups, float cap);          // x = cap * tanh(x / cap)
  float (*max)(const float* x, int groups);
  float (*sum_exp)(const float* x, float max, int groups);
  // Spans of kSpan logits: values = (x - max) / temperature, weights = exp(values), and of every
  // span the largest value and the sum of the weights. NaN in x is NaN in a sum. `mask`, where not
  // null: x[i] counts as -inf where bit i % 32 of mask[i / 32] is not set.
  void (*exp_shifted)(const float* x, const std::uint32_t* mask, float max, float temperature,
                      int spans, float* values, float* weights, float* span_max, float* span_sum);
  // Sum of the weights not below the limit.
  float (*sum_above)(const float* weights, float limit, int spans);
  // Largest of each span; a span with a NaN has NaN. `mask` as above.
  void (*span_max)(const float* x, const std::uint32_t* mask, int spans, float* span_max);
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();        // null where not compiled in
const Kernels* avxvnni_kernels();     // AVX2 with AVX-VNNI
const Kernels* avx512_kernels();      // F, BW, DQ, VL
const Kernels* avx512vnni_kernels();  // the same and VNNI
const Kernels* avx512bf16_kernels();  // the same and bf16

// The table of that name, the best one for "auto"; null when this machine cannot run it.
const Kernels* find_kernels(const char* name);

// Bytes of the third-level cache that a core of this machine has; 0 where it does not say.
std::size_t last_cache_bytes();

}  // namespace shoal
