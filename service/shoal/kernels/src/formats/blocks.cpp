// Decoding of ggml's blocks. A block of 32 numbers has one scale, in float16, and mostly a min; a
// K-block has 256 numbers and one scale for scales of 6 (Q6_K: 8) bits, one for mins.
#include "formats/blocks.h"

#include <algorithm>
#include <cstring>

#include "formats/numbers.h"
#include "require.h"

namespace shoal {
namespace {

constexpr BlockType kBlockTypes[] = {
    {"Q4_0", 32, 18, Format::int4},      {"Q4_1", 32, 20, Format::int4},
    {"Q5_0", 32, 22, Format::int8},      {"Q5_1", 32, 24, Format::int8_min},
    {"Q8_0", 32, 34, Format::int8},      {"Q4_K", 256, 144, Format::int4},
    {"Q5_K", 256, 176, Format::int8_min}, {"Q6_K", 256, 210, Format::int8},
};

// One block: scale[i / group] * integers[i] + min[i / group].
struct Block {
  int group = 32;
  std::int8_t integers[256];
  float scale[16], min[16] = {};
};

float half_at(const unsigned char* at) {
  std::uint16_t half;
  std::memcpy(&half, at, 2);
  return float_of_f16(half);
}

// 32 numbers of 4 bits, first the low halves of 16 bytes, then the high ones; the fifth bits in
// `high`, one after the other.
void nibbles(const unsigned char* bytes, std::uint32_t high, int offset, std::int8_t* out) {
  for (int i = 0; i < 32; ++i) {
    const int low = bytes[i % 16] >> (i / 16 * 4) & 15, fifth = high >> i & 1;
    out[i] = static_cast<std::int8_t>((low | fifth << 4) + offset);
  }
}

std::uint32_t fifth_bits(const unsigned char* at) {
  std::uint32_t bits;
  std::memcpy(&bits, at, 4);
  return bits;
}

// Eight scales and eight mins of 6 bits each in 12 bytes.
void scales_of_k(const unsigned char* block, float* scale, float* min) {
  const float unit = half_at(block), min_unit = half_at(block + 2);
  const unsigned char* s = block + 4;
  for (int i = 0; i < 8; ++i) {
    const int low = i < 4 ? s[i] & 63 : (s[i + 4] & 15) | s[i - 4] >> 6 << 4;
    const int high = i < 4 ? s[i + 4] & 63 : s[i + 4] >> 4 | s[i] >> 6 << 4;
    scale[i] = unit * static_cast<float>(low);
    min[i] = -min_unit * static_cast<float>(high);
  }
}

// 4 bits of every number, and the fifth of number i of group g in bit g of high[i], if any.
void integers_of_k(const unsigned char* low, const unsigned char* high, std::int8_t* out) {
  for (int g = 0; g < 8; ++g)
    for (int i = 0; i < 32; ++i) {
      const int nibble = low[g / 2 * 32 + i] >> (g % 2 * 4) & 15;
      out[g * 32 + i] = static_cast<std::int8_t>(nibble | (high ? high[i] >> g & 1 : 0) << 4);
    }
}

void decode_q6_k(const unsigned char* block, Block& out) {
  const unsigned char *low = block, *high = block + 128;
  const auto* scales = reinterpret_cast<const signed char*>(block + 192);
  const float unit = half_at(block + 208);
  out.group = 16;
  for (int i = 0; i < 16; ++i) out.scale[i] = unit * static_cast<float>(scales[i]);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = i % 128 / 32, at = i % 32;
    const int four = low[half * 64 + quarter % 2 * 32 + at] >> (quarter / 2 * 4) & 15;
    const int two = high[half * 32 + at] >> (quarter * 2) & 3;
    out.integers[i] = static_cast<std::int8_t>((four | two << 4) - 32);
  }
}

void decode(Source source, const unsigned char* block, Block& out) {
  out.scale[0] = half_at(block);
  switch (source) {
    case Source::q4_0: return nibbles(block + 2, 0, -8, out.integers);
    case Source::q4_1:
      out.min[0] = half_at(block + 2);
      return nibbles(block + 4, 0, 0, out.integers);
    case Source::q5_0: return nibbles(block + 6, fifth_bits(block + 2), -16, out.integers);
    case Source::q5_1:
      out.min[0] = half_at(block + 2);
      return nibbles(block + 8, fifth_bits(block + 4), 0, out.integers);
    case Source::q8_0: std::memcpy(out.integers, block + 2, 32); return;
    case Source::q4_k:
      scales_of_k(block, out.scale, out.min);
      return integers_of_k(block + 16, nullptr, out.integers);
    case Source::q5_k:
      scales_of_k(block, out.scale, out.min);
      return integers_of_k(block + 48, block + 16, out.integers);
    default: return decode_q6_k(block, out);
  }
}

// use(block, index of its first number), for each of a row.
template <class Use>
void for_each_block(Source source, const unsigned char* row, int k, const Use& use) {
  const BlockType& type = *block_type(source);
  Block block;
  for (int first = 0; first < k; first += type.numbers, row += type.bytes) {
    decode(source, row, block);
    use(block, first);
  }
}

}  // namespace

const BlockType* block_type(Source source) {
  const int index = static_cast<int>(source) - static_cast<int>(Source::q4_0);
  return index < 0 ? nullptr : &kBlockTypes[index];
}

Source block_source(const char* name) {
  for (const BlockType& type : kBlockTypes)
    if (std::strcmp(type.name, name) == 0)
      return static_cast<Source>(static_cast<int>(Source::q4_0) + (&type - kBlockTypes));
  throw std::invalid_argument(std::string("no kind of block is called ") + name);
}

bool read_groups(Source source, const unsigned char* row, int k, GroupedRow& out) {
  if (source == Source::q6_k) return false;
  const int numbers = block_type(source)->numbers, groups = numbers / 32;
  out.integers.resize(k);
  out.scale.resize(k / 32);
  out.min.resize(k / 32);
  for_each_block(source, row, k, [&](const Block& block, int first) {
    std::copy_n(block.integers, numbers, out.integers.data() + first);
    std::copy_n(block.scale, groups, out.scale.data() + first / 32);
    std::copy_n(block.min, groups, out.min.data() + first / 32);
  });
  return true;
}

void read_blocks(Source source, const unsigned char* row, int k, float* out) {
  const int numbers = block_type(source)->numbers;
  for_each_block(source, row, k, [&](const Block& block, int first) {
    for (int i = 0; i < numbers; ++i)
      out[first + i] = block.scale[i / block.group] * static_cast<float>(block.integers[i]) +
                       block.min[i / block.group];
  });
}

}  // namespace shoal
