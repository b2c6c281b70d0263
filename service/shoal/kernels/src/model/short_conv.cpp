// Gated short convolutions of a step (LFM2). A token's row of qkv_ is [b | c | x], each hidden_size
// wide; its result is c * conv(b * x), channel by channel, oldest value first. Of each KV block the
// last values of b * x stay, rounded as keys are: whoever has a sequence's blocks has its state, so
// shared prefixes, copies and rows that come and go need nothing more.
#include <algorithm>
#include <cstring>

#include "formats/numbers.h"
#include "model/model.h"
#include "require.h"

namespace shoal {
namespace {

constexpr int kConvChannels = 128;  // of one task

constexpr std::size_t bytes_of(Format format) { return format == Format::f32 ? 4 : 2; }

// Values in the KV cache, from channel `first` on.
void load_values(const char* from, Format format, int first, int channels, float* to) {
  if (format == Format::f32) {
    std::memcpy(to, from + sizeof(float) * first, sizeof(float) * channels);
    return;
  }
  const std::uint16_t* bits = reinterpret_cast<const std::uint16_t*>(from) + first;
  for (int i = 0; i < channels; ++i) to[i] = float_of_bf16(bits[i]);
}

void store_values(const float* from, Format format, int first, int channels, char* to) {
  if (format == Format::f32) {
    std::memcpy(to + sizeof(float) * first, from, sizeof(float) * channels);
    return;
  }
  std::uint16_t* bits = reinterpret_cast<std::uint16_t*>(to) + first;
  for (int i = 0; i < channels; ++i) bits[i] = bf16_of(from[i]);
}

// b = b * x, rounded as the cache rounds it: the same value whether or not it comes from there.
void multiply(const float* x, Format format, int channels, float* b) {
  for (int i = 0; i < channels; ++i) b[i] *= x[i];
  if (format == Format::f32) return;
  for (int i = 0; i < channels; ++i) b[i] = float_of_bf16(bf16_of(b[i]));
}

void add_products(const float* taps, const float* values, int channels, float* sums) {
  for (int i = 0; i < channels; ++i) sums[i] += taps[i] * values[i];
}

}  // namespace

void Model::set_conv(Layer& layer, const std::string& role, const Matrix& m) {
  const int hidden = config.hidden_size, kernel_size = layer.conv->kernel_size;
  const bool is_bias = role == "conv.bias";
  require(is_bias ? m.rows == 1 && m.cols == hidden : m.rows == hidden && m.cols == kernel_size,
          "weight " + role + " does not fit the model");
  if (is_bias) {
    layer.conv_bias.resize(hidden);
    read_row(m, 0, layer.conv_bias.data());
    return;
  }
  std::vector<float> of_channel(kernel_size);
  for (int channel = 0; channel < hidden; ++channel) {
    read_row(m, channel, of_channel.data());
    for (int tap = 0; tap < kernel_size; ++tap)
      layer.conv_taps[static_cast<std::size_t>(tap) * hidden + channel] = of_channel[tap];
  }
}

// Some channels of one row are one task: its tokens follow each other, since what stays of the last
// ones takes the place of what the first ones read.
void Model::convolve(int worker, int& stage, const Layer& layer) {
  const int chunks = (config.hidden_size + kConvChannels - 1) / kConvChannels;
  pool_.stage(worker, stage++, in_.num_rows * chunks, [&](int i) {
    const int row = i / chunks, first = i % chunks * kConvChannels;
    const int channels = std::min(kConvChannels, config.hidden_size - first);
    const int start = in_.row_starts[row], end = in_.row_starts[row + 1];
    for (int t = start; t < end; ++t) {
      float* b = conv_input(t) + first;
      multiply(b + 2 * config.hidden_size, conv_format(), channels, b);
    }
    for (int t = start; t < end; ++t) convolve_token(layer, row, t, first, channels);
    const int kept = layer.conv->values_per_block();
    for (int t = start; t < end; ++t) {
      const int block = in_.slots[t] / kBlock, offset = in_.slots[t] % kBlock;
      if (t + kept < end && offset + kept < kBlock) continue;  // a later one takes its place
      store_values(conv_input(t) + first, conv_format(), first, channels,
                   conv_values(layer, block, offset));
    }
  });
}

std::size_t Model::conv_block_bytes(const ShortConvConfig& conv) const {
  const std::size_t bytes = bytes_of(conv_format()) * config.hidden_size * conv.values_per_block();
  return (bytes + 63) / 64 * 64;
}

// b of a token: c and x follow.
float* Model::conv_input(int token) const {
  return qkv_.as<float>() + static_cast<std::size_t>(token) * qkv_stride_;
}

// Where the values of the token at this place of a block stay.
char* Model::conv_values(const Layer& layer, int block, int offset) const {
  const std::size_t bytes = bytes_of(conv_format()) * config.hidden_size;
  return kv_.data() + layer.kv.offset + block * layer.kv.block_bytes +
         offset % layer.conv->values_per_block() * bytes;
}

void Model::convolve_token(const Layer& layer, int row, int token, int first, int channels) {
  const int start = in_.row_starts[row], back = layer.conv->kernel_size - 1;
  const int position = in_.context_lens[row] - in_.row_starts[row + 1] + token;
  const std::int32_t* table = in_.block_tables + static_cast<std::size_t>(row) * in_.table_width;
  float sums[kConvChannels] = {}, stored[kConvChannels];
  for (int tap = std::max(0, back - position); tap <= back; ++tap) {
    const float* taps = layer.conv_taps.data() + static_cast<std::size_t>(tap) * config.hidden_size;
    const int at = token - back + tap, at_position = position - back + tap;
    const float* values = stored;
    if (at >= start)
      values = conv_input(at) + first;
    else
      load_values(conv_values(layer, table[at_position / kBlock], at_position % kBlock),
                  conv_format(), first, channels, stored);
    add_products(taps + first, values, channels, sums);
  }
  if (!layer.conv_bias.empty())
    for (int i = 0; i < channels; ++i) sums[i] += layer.conv_bias[first + i];
  const float* c = conv_input(token) + config.hidden_size + first;
  float* out = convolved_.as<float>() + static_cast<std::size_t>(token) * hidden_stride_ + first;
  for (int i = 0; i < channels; ++i) out[i] = c[i] * sums[i];
}

}  // namespace shoal
