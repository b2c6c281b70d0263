// Packing of int16_block: a row of k weights into one lane of a panel and back.
#include "formats/int16_block.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "formats/numbers.h"

namespace shoal {

// All but the small weights of an output are exact. False where the error would be more than 2^-11
// of the weights (root mean square), half of what rounding them to bf16 cost.
bool Int16Block::pack(const float* row, int k, char* panel, int lane, Channel& channel) {
  std::vector<float> weights(k);
  float largest = 0.0f;
  for (int i = 0; i < k; ++i) {
    weights[i] = float_of_bf16(bf16_of(row[i]));
    largest = std::max(largest, std::fabs(weights[i]));
  }
  int exponent = 0;
  std::frexp(largest, &exponent);  // largest < 2^exponent
  if (!(largest < 1e30f) || exponent < -100) {
    if (largest != 0.0f) return false;
    exponent = 0;
  }
  channel.scale = std::ldexp(1.0f, exponent - 13);
  const float per_unit = std::ldexp(1.0f, 13 - exponent);
  constexpr float kToWhole = 0x1.8p23f;  // added and taken away, rounds to the nearest integer
  constexpr int kSums = 8;               // several, or each addition waits for the one before
  float error[kSums] = {}, energy[kSums] = {};  // in units
  std::vector<std::int16_t> integers(k);
  const auto take = [&](int i, int sum) {
    const float value = weights[i] * per_unit;  // below 8192, and bf16: at most 8160
    const float rounded = (value + kToWhole) - kToWhole;
    integers[i] = static_cast<std::int16_t>(rounded);
    error[sum] += (value - rounded) * (value - rounded);
    energy[sum] += value * value;
  };
  const int whole = k / kSums * kSums;
  for (int i = 0; i < whole; i += kSums)
    for (int sum = 0; sum < kSums; ++sum) take(i + sum, sum);
  for (int i = whole; i < k; ++i) take(i, 0);
  const bool suits = std::accumulate(error, error + kSums, 0.0f) <=
                     std::accumulate(energy, energy + kSums, 0.0f) * 0x1p-22f;  // false for NaN
  if (suits) store_pairs(integers.data(), k, panel, lane);
  return suits;
}

void Int16Block::unpack(const char* panel, int lane, const Channel& channel, int k, float* row) {
  const std::int16_t* at = reinterpret_cast<const std::int16_t*>(panel) + lane * 2;
  for (int i = 0; i < k; ++i) row[i] = channel.scale * at[i / 2 * kPanel * 2 + i % 2];
}

}  // namespace shoal
