#include "weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <numeric>
#include <utility>

namespace shoal {

Region::Region(std::size_t bytes, bool huge_pages) : bytes_(bytes) {
  if (bytes == 0) return;
  constexpr std::size_t kHugePage = std::size_t{1} << 21;
  if (bytes < kHugePage) huge_pages = false;
  mapped_bytes_ = bytes + (huge_pages ? kHugePage : 0);
  mapped_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped_ == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<char*>(mapped_);
  if (!huge_pages) return;
  data_ += (kHugePage - reinterpret_cast<std::uintptr_t>(mapped_) % kHugePage) % kHugePage;
#if defined(MADV_HUGEPAGE)
  madvise(data_, bytes, MADV_HUGEPAGE);
#endif
}

Region::~Region() {
  if (data_) munmap(mapped_, mapped_bytes_);
}

Region::Region(Region&& other) noexcept { *this = std::move(other); }

Region& Region::operator=(Region&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  return *this;
}

char* Arena::take(std::size_t bytes) {
  bytes = (bytes + 63) / 64 * 64;
  if (taken_ + bytes > region_.bytes()) return nullptr;
  taken_ += bytes;
  return region_.data() + taken_ - bytes;
}

namespace {

float float_of_bf16(std::uint16_t h) {
  const std::uint32_t u = static_cast<std::uint32_t>(h) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

float float_of_f16(std::uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const float sign = h & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
}

// Weights of one output as integers at a power of two, so that all but the small ones are exact.
// False where their error would be more than 2^-11 of them (root mean square), half of what
// rounding them to bf16 cost.
bool to_fixed16_row(const std::vector<std::uint16_t>& row, std::int16_t* out, float& unit) {
  float largest = 0.0f;
  for (const std::uint16_t h : row) largest = std::max(largest, std::fabs(float_of_bf16(h)));
  int exponent = 0;
  std::frexp(largest, &exponent);  // largest < 2^exponent
  if (!(largest < 1e30f) || exponent < -100) {
    if (largest != 0.0f) return false;
    exponent = 0;
  }
  unit = std::ldexp(1.0f, exponent - 13);
  const float per_unit = std::ldexp(1.0f, 13 - exponent);
  constexpr float kToWhole = 0x1.8p23f;  // added and taken away, rounds to the nearest integer
  constexpr std::size_t kSums = 8;       // several, or each addition waits for the one before
  float error[kSums] = {}, energy[kSums] = {};  // in units
  const auto take = [&](std::size_t i, std::size_t sum) {
    const float value = float_of_bf16(row[i]) * per_unit;  // below 8192, and bf16: at most 8160
    const float rounded = (value + kToWhole) - kToWhole;
    out[i] = static_cast<std::int16_t>(rounded);
    error[sum] += (value - rounded) * (value - rounded);
    energy[sum] += value * value;
  };
  const std::size_t whole = row.size() / kSums * kSums;
  for (std::size_t i = 0; i < whole; i += kSums)
    for (std::size_t sum = 0; sum < kSums; ++sum) take(i + sum, sum);
  for (std::size_t i = whole; i < row.size(); ++i) take(i, 0);
  return std::accumulate(error, error + kSums, 0.0f) <=
         std::accumulate(energy, energy + kSums, 0.0f) * 0x1p-22f;  // not so if one is NaN
}

// Weights of one output as sign, mantissa and the last 15 exponents up to the largest; what is
// smaller becomes zero. False where more would be lost than to_fixed16_row may lose.
bool to_float12_row(std::vector<std::uint16_t>& row, float& unit) {
  int largest = 0;
  for (const std::uint16_t h : row) largest = std::max(largest, h >> 7 & 255);
  if (largest > 200) return false;  // 2^73 and more, or not finite: no unit for it
  const int lowest = largest - 15;
  unit = std::ldexp(1.0f, lowest - kRaise);
  float lost = 0.0f, energy = 0.0f;
  for (std::uint16_t& h : row) {
    const int exponent = h >> 7 & 255;
    const bool kept = exponent > std::max(lowest, 0);
    const float value = float_of_bf16(h);
    (kept ? energy : lost) += value * value;
    h = kept ? (h & 0x807f) | (exponent - lowest) << 7 : 0;
  }
  return lost <= energy * 0x1p-22f;
}

// Puts them where the groups of a panel have them: see kernels.h.
void store_float12(const std::vector<std::uint16_t>& row, int lane, char* panel) {
  const int k = static_cast<int>(row.size());
  for (int first = 0; first < k; first += kGroupInputs, panel += kGroupBytes)
    for (int odd = 0; odd < 2; ++odd) {
      const int at = lane * 2 + odd;
      std::uint16_t exponents = 0;
      for (int pair = 0; pair < kGroupInputs / 2; ++pair) {
        const int i = first + 2 * pair + odd;
        const std::uint16_t bits = i < k ? row[i] : 0;
        exponents |= (bits >> 7 & 15) << (4 * pair);
        panel[64 + 32 * pair + at] = static_cast<char>((bits >> 8 & 0x80) | (bits & 0x7f));
      }
      std::memcpy(panel + at * 2, &exponents, 2);
    }
}

// The other way, times a power of two that takes the exponents to where floats have them.
void load_float12(const char* panel, int lane, int k, float unit, float* row) {
  for (int first = 0; first < k; first += kGroupInputs, panel += kGroupBytes)
    for (int odd = 0; odd < 2; ++odd) {
      const int at = lane * 2 + odd;
      std::uint16_t exponents;
      std::memcpy(&exponents, panel + at * 2, 2);
      for (int pair = 0; pair < kGroupInputs / 2; ++pair) {
        const int i = first + 2 * pair + odd;
        if (i >= k) break;
        const std::uint32_t low = static_cast<unsigned char>(panel[64 + 32 * pair + at]);
        const std::uint32_t exponent = exponents >> (4 * pair) & 15;
        const std::uint32_t bits = low >> 7 << 31 | (exponent + kRaise) << 23 | (low & 127) << 16;
        float raised;
        std::memcpy(&raised, &bits, 4);
        row[i] = exponent == 0 ? 0.0f : raised * unit;
      }
    }
}

// Two neighbours at a time into one lane of a panel.
template <typename Half>
void store_pairs(const Half* row, int k, char* lane) {
  int i = 0;
  for (; i + 1 < k; i += 2) std::memcpy(lane + i / 2 * kPanel * 4, row + i, 4);
  if (i < k) std::memcpy(lane + i / 2 * kPanel * 4, row + i, 2);
}

}  // namespace

void read_row(const Matrix& m, int row, float* out) {
  const std::ptrdiff_t base = row * m.row_stride;
  if (m.type == Source::f32) {
    const float* p = static_cast<const float*>(m.data) + base;
    for (int i = 0; i < m.cols; ++i) out[i] = p[i * m.col_stride];
    return;
  }
  const std::uint16_t* p = static_cast<const std::uint16_t*>(m.data) + base;
  if (m.type == Source::bf16 && m.col_stride == 1)  // known to be 1, the loop is vectorised
    for (int i = 0; i < m.cols; ++i) out[i] = float_of_bf16(p[i]);
  else if (m.type == Source::bf16)
    for (int i = 0; i < m.cols; ++i) out[i] = float_of_bf16(p[i * m.col_stride]);
  else
    for (int i = 0; i < m.cols; ++i) out[i] = float_of_f16(p[i * m.col_stride]);
}

Packed::Packed(Format format, int n, int k, Arena* arena) : format(format), n(n), k(k) {
  data = arena ? arena->take(data_bytes()) : nullptr;
  if (!data) {
    own_ = Region(data_bytes(), true);
    data = own_.data();
  }
  if (format == Format::int8 || format == Format::fixed16 || format == Format::float12)
    scale.resize(panels() * kPanel);
  if (format == Format::int8) sum.resize(panels() * kPanel);
}

void Packed::add(const Matrix& matrix, int first, int part) {
  std::vector<float> row(matrix.cols);
  for (int i = 0; i < matrix.rows; ++i) {
    read_row(matrix, i, row.data());
    const int at = part == 0 ? i : i / kPanel * 2 * kPanel + (part - 1) * kPanel + i % kPanel;
    if (!add_row(row.data(), first + at)) {
      become_bf16();
      return add(matrix, first, part);
    }
  }
}

void Packed::become_bf16() {
  Packed other(Format::bf16, n, k);
  std::vector<float> row(k);
  for (int i = 0; i < panels() * kPanel; ++i) {
    unpack_row(i, row.data());
    other.add_row(row.data(), i);
  }
  other.bias = std::move(bias);
  *this = std::move(other);
}

bool Packed::add_row(const float* row, int at) {
  char* panel = data + panel_bytes(format, k) * (at / kPanel);
  const int lane = at % kPanel;
  if (format == Format::f32) {
    float* p = reinterpret_cast<float*>(panel) + lane;
    for (int i = 0; i < k; ++i) p[i * kPanel] = row[i];
  } else if (format == Format::bf16) {
    std::vector<std::uint16_t> half(k);
    portable_kernels()->to_bf16(row, k, half.data());
    store_pairs(half.data(), k, panel + lane * 4);
  } else if (format == Format::fixed16) {
    std::vector<std::uint16_t> half(k);
    std::vector<std::int16_t> integers(k);
    portable_kernels()->to_bf16(row, k, half.data());
    if (!to_fixed16_row(half, integers.data(), scale[at])) return false;
    store_pairs(integers.data(), k, panel + lane * 4);
  } else if (format == Format::float12) {
    std::vector<std::uint16_t> half(k);
    portable_kernels()->to_bf16(row, k, half.data());
    if (!to_float12_row(half, scale[at])) return false;
    store_float12(half, lane, panel);
  } else {
    std::vector<std::int8_t> quantized(k);
    scale[at] = portable_kernels()->to_int8(row, k, quantized.data());
    std::int8_t* p = reinterpret_cast<std::int8_t*>(panel) + lane * 4;
    for (int i = 0; i < k; ++i) {
      p[i / 4 * kPanel * 4 + i % 4] = quantized[i];
      sum[at] += quantized[i];
    }
  }
  return true;
}

void Packed::unpack_row(int row, float* out) const {
  const char* panel = data + panel_bytes(format, k) * (row / kPanel);
  const int lane = row % kPanel;
  if (format == Format::f32) {
    const float* p = reinterpret_cast<const float*>(panel) + lane;
    for (int i = 0; i < k; ++i) out[i] = p[i * kPanel];
  } else if (format == Format::bf16) {
    const std::uint16_t* p = reinterpret_cast<const std::uint16_t*>(panel) + lane * 2;
    for (int i = 0; i < k; ++i) out[i] = float_of_bf16(p[i / 2 * kPanel * 2 + i % 2]);
  } else if (format == Format::fixed16) {
    const std::int16_t* p = reinterpret_cast<const std::int16_t*>(panel) + lane * 2;
    for (int i = 0; i < k; ++i) out[i] = scale[row] * p[i / 2 * kPanel * 2 + i % 2];
  } else if (format == Format::float12) {
    load_float12(panel, lane, k, scale[row], out);
  } else {
    const std::int8_t* p = reinterpret_cast<const std::int8_t*>(panel) + lane * 4;
    for (int i = 0; i < k; ++i) out[i] = scale[row] * p[i / 4 * kPanel * 4 + i % 4];
  }
}

Table::Table(Format kept, const Matrix& matrix)
    : rows(matrix.rows),
      cols(matrix.cols),
      format(kept == Format::f32 ? Format::f32 : Format::bf16),
      data(static_cast<std::size_t>(rows) * cols * (format == Format::f32 ? 4 : 2)) {
  std::vector<float> row(cols);
  for (int i = 0; i < rows; ++i) {
    const std::size_t at = static_cast<std::size_t>(i) * cols;
    if (format == Format::f32) {
      read_row(matrix, i, data.as<float>() + at);
      continue;
    }
    read_row(matrix, i, row.data());
    portable_kernels()->to_bf16(row.data(), cols, data.as<std::uint16_t>() + at);
  }
}

void Table::row(int index, float* out) const {
  const std::size_t at = static_cast<std::size_t>(index) * cols;
  if (format == Format::f32)
    std::memcpy(out, data.as<float>() + at, sizeof(float) * cols);
  else
    for (int i = 0; i < cols; ++i) out[i] = float_of_bf16(data.as<std::uint16_t>()[at + i]);
}

}  // namespace shoal
