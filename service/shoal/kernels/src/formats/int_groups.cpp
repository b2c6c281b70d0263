// Packing of int4, int8 and int8_min: a row of k weights into one lane of a panel and back.
#include "formats/int_groups.h"

#include <algorithm>

#include "formats/numbers.h"

namespace shoal {
namespace {

constexpr float kToInteger = 0x1.8p23f;  // added and taken away, rounds to the nearest integer
constexpr int kSums = 8;                 // several, or each addition waits for the one before

// Eight numbers at once, on any machine: the compiler makes of it what there is.
using Eight = float __attribute__((vector_size(4 * kSums)));

void load(const float* from, Eight& to) { std::memcpy(&to, from, sizeof to); }

float total(const Eight& sums) {
  float sum = 0.0f;
  for (int j = 0; j < kSums; ++j) sum += sums[j];
  return sum;
}

// Compiled into each of its callers, with their instruction set.
#define SHOAL_INLINE inline __attribute__((always_inline))

// One group: its integers as floats, scale and min as float16 holds them.
struct Group {
  float integers[kGroup];
  float scale = 0.0f, min = 0.0f;

  // The nearest integers within lowest..highest; returns the sum of squared errors.
  SHOAL_INLINE float round(const float* x, float lowest, float highest) {
    const float per_unit = scale != 0.0f ? 1.0f / scale : 0.0f;
    const Eight low = lowest - Eight{}, high = highest - Eight{};
    Eight errors = {}, weights;
    for (int i = 0; i < kGroup; i += kSums) {
      load(x + i, weights);
      Eight at = (weights - min) * per_unit;
      at = at < low ? low : at;
      at = high < at ? high : at;
      at = (at + kToInteger) - kToInteger;
      std::memcpy(integers + i, &at, sizeof at);
      const Eight error = weights - (at * scale + min);
      errors += error * error;
    }
    return total(errors);
  }
};

float through_f16(float x) { return float_of_f16(f16_of(x)); }

// Does float16 change x by no more than that? False for what is not finite.
bool rounds_within(float x, float error) {
  return std::isfinite(x) && std::fabs(through_f16(x) - x) <= error;
}

// The scale is rounded up where the largest would not be within 127 of it.
float round_symmetric(const float* x, Group& group) {
  float largest = 0.0f;
  for (int i = 0; i < kGroup; ++i) largest = std::max(largest, std::fabs(x[i]));
  std::uint16_t scale = f16_of(largest / 127.0f);
  if (float_of_f16(scale) * 127.5f < largest) ++scale;
  group.scale = float_of_f16(scale);
  group.min = 0.0f;
  return group.round(x, -127.0f, 127.0f);
}

// The line through (integer, weight) with the least squares; false where all integers are equal.
SHOAL_INLINE bool fit_line(const float* x, const Group& group, float& scale, float& min) {
  Eight q = {}, qq = {}, w = {}, qw = {}, integer, weight;
  for (int i = 0; i < kGroup; i += kSums) {
    load(group.integers + i, integer);
    load(x + i, weight);
    q += integer;
    qq += integer * integer;
    w += weight;
    qw += integer * weight;
  }
  const float sum = total(q), weights = total(w);
  const float spread = kGroup * total(qq) - sum * sum;
  if (!(spread > 0.0f)) return false;
  scale = (kGroup * total(qw) - sum * weights) / spread;
  min = (weights - scale * sum) / kGroup;
  return true;
}

// Starts from the whole range and from narrower ones; from each, integers and the line through them
// are fitted to each other in turn (Lloyd, 1982), and what had the least error is kept.
SHOAL_INLINE float search_between_limits(const float* x, Group& best) {
  constexpr float kStarts[] = {1.0f, 0.9f, 0.8f};
  constexpr int kRounds = 3;
  const auto [least, most] = std::minmax_element(x, x + kGroup);
  const float range = *most - *least;
  float least_error = INFINITY;
  for (const float part : kStarts) {
    float scale = range * part / 15.0f, min = *least + 0.5f * range * (1.0f - part);
    for (int round = 0; round < kRounds; ++round) {
      Group group;
      group.scale = through_f16(scale);
      group.min = through_f16(min);
      const float error = group.round(x, 0.0f, 15.0f);
      if (error < least_error) {
        least_error = error;
        best = group;
      }
      if (!fit_line(x, group, scale, min)) break;
    }
  }
  return least_error;
}

// The search is most of the time that a model takes to load. It finds the same with any
// instructions.
#if defined(__x86_64__)
__attribute__((target("avx2"))) float search_with_avx2(const float* x, Group& best) {
  return search_between_limits(x, best);
}

float round_between_limits(const float* x, Group& best) {
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  return has_avx2 ? search_with_avx2(x, best) : search_between_limits(x, best);
}
#else
float round_between_limits(const float* x, Group& best) { return search_between_limits(x, best); }
#endif

void store_half(char* at, float value) {
  const std::uint16_t half = f16_of(value);
  std::memcpy(at, &half, 2);
}

float load_half(const char* at) {
  std::uint16_t half;
  std::memcpy(&half, at, 2);
  return float_of_f16(half);
}

template <class Traits>
void store_head(char* group, int lane, float scale, float min) {
  store_half(group + lane * 2, scale);
  if constexpr (Traits::has_min) store_half(group + Traits::kMinsAt + lane * 2, min);
}

// Input i of a group: its byte, and with 4 bits how far its half is shifted.
template <class Traits>
constexpr int byte_of(int i, int lane) {
  constexpr int kPerByte = 8 / Traits::bits;
  return Traits::kIntegersAt + i / (4 * kPerByte) * kPanel * 4 + lane * 4 + i % 4;
}
constexpr int shift_of(int i) { return i & 4; }

// Four bytes at a time.
template <class Traits>
void store_integers(char* group, int lane, const std::int8_t (&integers)[kGroup]) {
  constexpr int kAtOnce = 32 / Traits::bits;
  for (int i = 0; i < kGroup; i += kAtOnce) {
    std::uint32_t word, high;
    std::memcpy(&word, integers + i, 4);
    if (Traits::bits == 4) {
      std::memcpy(&high, integers + i + 4, 4);
      word |= high << 4;
    }
    std::memcpy(group + byte_of<Traits>(i, lane), &word, 4);
  }
}

template <class Traits>
int load_integer(const char* group, int i, int lane) {
  const char byte = group[byte_of<Traits>(i, lane)];
  if constexpr (Traits::bits == 8)
    return static_cast<std::int8_t>(byte);
  else
    return static_cast<unsigned char>(byte) >> shift_of(i) & 15;
}

}  // namespace

template <int Bits, bool HasMin>
bool IntGroups<Bits, HasMin>::pack(const float* row, int k, char* panel, int lane, Channel&) {
  float lost = 0.0f, energy = 0.0f;
  for (int first = 0; first < k; first += kGroup, panel += kGroupBytes) {
    const int count = std::min(kGroup, k - first);
    float x[kGroup];
    for (int i = 0; i < kGroup; ++i) x[i] = row[first + std::min(i, count - 1)];
    Group group;
    lost += Bits == 8 ? round_symmetric(x, group) : round_between_limits(x, group);
    for (float value : x) energy += value * value;
    store_head<IntGroups>(panel, lane, group.scale, group.min);
    std::int8_t integers[kGroup] = {};
    for (int i = 0; i < count; ++i) integers[i] = static_cast<std::int8_t>(group.integers[i]);
    store_integers<IntGroups>(panel, lane, integers);
  }
  return std::isfinite(lost) && lost <= energy * (Bits == 8 ? 0x1p-10f : 0x1p-3f);
}

template <int Bits, bool HasMin>
bool IntGroups<Bits, HasMin>::pack_groups(const GroupedRow& row, int k, char* panel, int lane) {
  for (int g = 0; g * kGroup < k; ++g, panel += kGroupBytes) {
    const int count = std::min(kGroup, k - g * kGroup);
    std::int8_t integers[kGroup] = {}, least = 127, most = -128;
    std::copy_n(row.integers.data() + g * kGroup, count, integers);
    for (int i = 0; i < count; ++i) {
      least = std::min(least, integers[i]);
      most = std::max(most, integers[i]);
    }
    const int shift = Bits == 4 && least < 0 ? 8 : 0;  // Q4_0 counts from -8
    const float scale = row.scale[g], min = row.min[g] - static_cast<float>(shift) * scale;
    if (Bits == 4 && (least + shift < 0 || most + shift > 15)) return false;
    if (!HasMin && min != 0.0f) return false;
    const float unit = std::fabs(scale);
    if (!rounds_within(scale, unit * 0x1p-11f)) return false;
    if (!rounds_within(min, std::fabs(min) * 0x1p-11f + unit * 0x1p-7f)) return false;
    store_head<IntGroups>(panel, lane, scale, min);
    for (int i = 0; i < count; ++i) integers[i] = static_cast<std::int8_t>(integers[i] + shift);
    store_integers<IntGroups>(panel, lane, integers);
  }
  return true;
}

template <int Bits, bool HasMin>
void IntGroups<Bits, HasMin>::unpack(const char* panel, int lane, const Channel&, int k,
                                     float* row) {
  for (int first = 0; first < k; first += kGroup, panel += kGroupBytes) {
    const float scale = load_half(panel + lane * 2);
    const float min = HasMin ? load_half(panel + kMinsAt + lane * 2) : 0.0f;
    for (int i = 0; i < std::min(kGroup, k - first); ++i)
      row[first + i] = scale * load_integer<IntGroups>(panel, i, lane) + min;
  }
}

template struct IntGroups<4, true>;
template struct IntGroups<8, false>;
template struct IntGroups<8, true>;

}  // namespace shoal
