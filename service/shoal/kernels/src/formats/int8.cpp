// Packing of int8: a row of k weights into one lane of a panel and back.
#include "formats/int8.h"

#include <numeric>
#include <vector>

#include "formats/numbers.h"

namespace shoal {

bool Int8::pack(const float* row, int k, char* panel, int lane, Channel& channel) {
  std::vector<std::int8_t> integers(k);
  channel.scale = quantize_int8(row, k, integers.data());
  channel.sum = std::accumulate(integers.begin(), integers.end(), 0);
  std::int8_t* at = reinterpret_cast<std::int8_t*>(panel) + lane * 4;
  for (int i = 0; i < k; ++i) at[i / 4 * kPanel * 4 + i % 4] = integers[i];
  return true;
}

void Int8::unpack(const char* panel, int lane, const Channel& channel, int k, float* row) {
  const std::int8_t* at = reinterpret_cast<const std::int8_t*>(panel) + lane * 4;
  for (int i = 0; i < k; ++i) row[i] = channel.scale * at[i / 4 * kPanel * 4 + i % 4];
}

}  // namespace shoal
