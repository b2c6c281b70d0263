// The table of kernels one instruction set provides, and the arguments they take.
// A kernel works on whole rows and whole 16-wide panels; it knows no model, no threads, no Python.
// Every kernel adds in an order that depends on the shape of one row alone (design decision 4).
#pragma once
#include <cstddef>
#include <cstdint>

namespace shoal {

constexpr int kPanel = 16;  // output channels per packed weight panel, and lanes of every reduction
constexpr int kBlock = 16;  // tokens per KV block

// Two other ways to keep bf16 weights, each with one power of two per output channel:
// fixed16 where multiplying 16-bit integers is faster than unpacking, 13 bits and a sign;
// float12 where memory is slower than unpacking, a sign, 7 bits of mantissa, 4 of exponent.
enum class Format : int { f32 = 0, bf16 = 1, int8 = 2, fixed16 = 3, float12 = 4 };
constexpr int kFormats = 5;
enum class Activation : int { silu = 0, gelu_tanh = 1, gelu_erf = 2, relu = 3 };

constexpr int kSpan = 64;  // logits a sampler sums as one

// So many products of two fixed16 numbers fit a 32-bit sum: 32 * 8191 * 8191 < 2^31.
constexpr int kFixedBlock = 32;
constexpr int kFixedMax = 8191;

constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// A fixed16 row: its integers, padded to whole blocks, then one scale per block.
constexpr std::size_t fixed_row_bytes(int k) {
  return round_up(k, kFixedBlock) * 2 + round_up(k, kFixedBlock) / kFixedBlock * sizeof(float);
}

// A float12 panel is a row of groups of 8 inputs. A group is 64 bytes of exponents, the 4 bits of
// four pairs of inputs in each 16-bit lane, then 32 bytes of sign and mantissa for each pair.
constexpr int kGroupInputs = 8, kGroupBytes = 192;

// What float12 leaves of an exponent is too small for bf16 sums, so its rows are that much larger.
constexpr int kRaise = 96;  // power of two

// Bytes of one panel of `k` inputs. A 32-bit lane holds one float, a pair of bf16 or fixed16
// (k, k+1), or four int8 (k..k+3) of the same output channel; a panel is [k / per_lane][16 lanes].
constexpr std::size_t panel_bytes(Format format, int k) {
  if (format == Format::float12)
    return static_cast<std::size_t>(round_up(k, kGroupInputs) / kGroupInputs) * kGroupBytes;
  const int per_lane = format == Format::f32 ? 1 : format == Format::int8 ? 4 : 2;
  return static_cast<std::size_t>(round_up(k, per_lane) / per_lane) * kPanel * 4;
}

constexpr int kMaxLinearRows = 96;  // of one call

// out[m][16 * (p - p0) ...] (+)= x[m] . panel[p] + bias, rows 0..rows-1, panels p0..p1-1.
struct LinearArgs {
  const void* x;         // [rows] of the format's row type: float, bf16, int8 or fixed16
                         // (float12: bf16 times 2^kRaise)
  std::size_t x_stride;  // bytes between rows
  const float* x_scale;  // [rows], int8 only
  const char* panels;
  const float* w_scale;       // [16 * panels], int8, fixed16 and float12
  const std::int32_t* w_sum;  // [16 * panels], int8 only: sum of a channel's int8 weights
  const float* bias;          // [16 * panels] or null
  int k, rows, p0, p1;
  float* out;
  std::size_t out_stride;  // floats between rows
  bool add;                // add to what is in `out` instead of replacing it
};

// Attention of `tokens` consecutive tokens of one sequence, for the query heads of one KV head.
// K of a block is a panel [head_dim][16 keys]; V is one panel [16 keys][16 dims] per 16 dims.
struct AttendArgs {
  const char* kv;           // this layer's KV cache at this KV head of block 0
  std::size_t block_bytes;  // between blocks
  std::size_t v_offset;     // bytes from K to V
  std::size_t next;         // bytes from V to what is read after it: K of the next head; 0 = nothing
  const std::int32_t* table;
  int head_dim, group, tokens;
  int context;             // number of keys the first token sees (itself included)
  int window;              // keys seen at most, 0 = all
  float soft_cap;          // scores become cap * tanh(score / cap); 0 = off
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
};

struct Kernels {
  const char* name;
  bool bf16_rows;   // the bf16 linear reads bf16 rows (else float rows)
  Format bf16_weights;  // how bf16 weights are kept: bf16, fixed16 or float12
  void (*linear[kFormats])(const LinearArgs&);  // by format; null where no weights are kept so
  void (*attend[2])(const AttendArgs&);     // by KV format: f32, bf16
  void (*store_kv[2])(const StoreKvArgs&);  // by KV format: f32, bf16
  // Rows are padded with zeros to a multiple of 16, weights too: `width` counts real elements.
  void (*rms_norm)(const float* x, const float* weight, float eps, int width, float* out);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int width,
                     float* out);
  // RMS norm of one head in place, then rotation of its first 2*half elements, then scaling.
  // norm_weight and cos_sin ([half] cosines, [half] sines) may be null.
  void (*rotate)(float* head, int head_dim, const float* norm_weight, float eps,
                 const float* cos_sin, int half, float scale);
  // pairs = [gate 16 | up 16] repeated; out[16 * i + j] = act(gate) * up.
  void (*gated)(const float* pairs, int groups, Activation act, float* out);
  void (*activate)(float* x, int groups, Activation act);
  void (*to_bf16)(const float* x, int padded, std::uint16_t* out);
  void (*to_raised_bf16)(const float* x, int padded, std::uint16_t* out);  // times 2^kRaise
  float (*to_int8)(const float* x, int padded, std::int8_t* out);  // returns the scale
  void (*to_fixed16)(const float* x, int padded, char* out);
  float (*max)(const float* x, int groups);
  float (*sum_exp)(const float* x, float max, int groups);
  // Spans of kSpan logits: values = (x - max) / temperature, weights = exp(values), and of every
  // span the largest value and the sum of the weights. NaN in x is NaN in a sum.
  void (*weigh)(const float* x, float max, float temperature, int spans, float* values,
                float* weights, float* span_max, float* span_sum);
  // Sum of the weights not below the limit.
  float (*sum_above)(const float* weights, float limit, int spans);
  // Largest of each span; a span with a NaN has NaN.
  void (*span_max)(const float* x, int spans, float* span_max);
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();        // null where not compiled in
const Kernels* avx512_kernels();      // F, BW, DQ, VL
const Kernels* avx512bf16_kernels();  // the same and bf16, VNNI

// The table of that name, the best one for "auto"; null when this machine cannot run it.
const Kernels* find_kernels(const char* name);

// Bytes of the third-level cache that a core of this machine has; 0 where it does not say.
std::size_t last_cache_bytes();

}  // namespace shoal
