// Gated short convolutions of a step (LFM2). A token's row of qkv_ is [b | c | x], each hidden_size
// wide; its result is c * conv(b * x), channel by channel, oldest value first. Of each KV block the
// last values of b * x stay, in float32: whoever has a sequence's blocks has its state, so shared
// prefixes, copies and rows that come and go need nothing more.
#include <algorithm>
#include <cstring>

#include "model/model.h"
#include "require.h"

namespace shoal {
namespace {

constexpr int kConvChannels = 128;  // of one task

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
  pool_.stage(worker, stage++, in_.num_rows * chunks, [&](int task) {
    const int row = task / chunks, first = task % chunks * kConvChannels;
    const int channels = std::min(kConvChannels, config.hidden_size - first);
    const int start = in_.row_starts[row], end = in_.row_starts[row + 1];
    for (int t = start; t < end; ++t) {
      float* b = conv_input(t) + first;  // becomes b * x
      const float* x = b + 2 * config.hidden_size;
      for (int i = 0; i < channels; ++i) b[i] *= x[i];
    }
    for (int t = start; t < end; ++t) convolve_token(layer, row, t, first, channels);
    const int kept = layer.conv->values_per_block();
    for (int t = start; t < end; ++t) {
      const int block = in_.slots[t] / kBlock, offset = in_.slots[t] % kBlock;
      if (t + kept < end && offset + kept < kBlock) continue;  // a later one takes its place
      std::memcpy(conv_values(layer, block, offset) + first, conv_input(t) + first,
                  sizeof(float) * channels);
    }
  });
}

// b of a token: c and x follow.
float* Model::conv_input(int token) const {
  return qkv_.as<float>() + static_cast<std::size_t>(token) * qkv_stride_;
}

// Where the values of the token at this place of a block stay.
float* Model::conv_values(const Layer& layer, int block, int offset) const {
  char* values = kv_.data() + layer.kv.offset + block * block_bytes_;
  return reinterpret_cast<float*>(values) +
         offset % layer.conv->values_per_block() * config.hidden_size;
}

void Model::convolve_token(const Layer& layer, int row, int token, int first, int channels) {
  const int start = in_.row_starts[row], back = layer.conv->kernel_size - 1;
  const int position = in_.context_lens[row] - in_.row_starts[row + 1] + token;
  const std::int32_t* table = in_.block_tables + static_cast<std::size_t>(row) * in_.table_width;
  float sums[kConvChannels] = {};
  for (int tap = std::max(0, back - position); tap <= back; ++tap) {
    const int at = token - back + tap, at_position = position - back + tap;
    const float* values =
        at >= start ? conv_input(at)
                    : conv_values(layer, table[at_position / kBlock], at_position % kBlock);
    add_products(layer.conv_taps.data() + static_cast<std::size_t>(tap) * config.hidden_size + first,
                 values + first, channels, sums);
  }
  if (!layer.conv_bias.empty())
    for (int i = 0; i < channels; ++i) sums[i] += layer.conv_bias[first + i];
  const float* c = conv_input(token) + config.hidden_size + first;
  float* out = convolved_.as<float>() + static_cast<std::size_t>(token) * hidden_stride_ + first;
  for (int i = 0; i < channels; ++i) out[i] = c[i] * sums[i];
}

}  // namespace shoal
