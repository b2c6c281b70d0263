// Packing of f32 and bf16: a row of k weights into one lane of a panel and back.
#include "formats/plain.h"

#include <vector>

#include "formats/numbers.h"

namespace shoal {

bool F32::pack(const float* row, int k, char* panel, int lane, Channel&) {
  float* at = reinterpret_cast<float*>(panel) + lane;
  for (int i = 0; i < k; ++i) at[i * kPanel] = row[i];
  return true;
}

void F32::unpack(const char* panel, int lane, const Channel&, int k, float* row) {
  const float* at = reinterpret_cast<const float*>(panel) + lane;
  for (int i = 0; i < k; ++i) row[i] = at[i * kPanel];
}

bool Bf16::pack(const float* row, int k, char* panel, int lane, Channel&) {
  std::vector<std::uint16_t> half(k);
  for (int i = 0; i < k; ++i) half[i] = bf16_of(row[i]);
  store_pairs(half.data(), k, panel, lane);
  return true;
}

void Bf16::unpack(const char* panel, int lane, const Channel&, int k, float* row) {
  const std::uint16_t* at = reinterpret_cast<const std::uint16_t*>(panel) + lane * 2;
  for (int i = 0; i < k; ++i) row[i] = float_of_bf16(at[i / 2 * kPanel * 2 + i % 2]);
}

}  // namespace shoal
