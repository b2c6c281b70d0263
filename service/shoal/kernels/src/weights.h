// Memory and packed weights: what a model owns besides its inputs.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace shoal {

// Zeroed pages from the system; a page costs memory once it is written. 64-byte aligned, with huge
// pages aligned to one of them.
class Region {
 public:
  Region() = default;
  explicit Region(std::size_t bytes, bool huge_pages = false);
  ~Region();
  Region(Region&& other) noexcept;
  Region& operator=(Region&& other) noexcept;

  std::size_t bytes() const { return bytes_; }
  char* data() const { return data_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  char* data_ = nullptr;
  std::size_t bytes_ = 0;
  void* mapped_ = nullptr;
  std::size_t mapped_bytes_ = 0;
};

// Pieces of one region: matrices smaller than a huge page share it.
class Arena {
 public:
  Arena() = default;
  explicit Arena(std::size_t bytes) : region_(bytes, true) {}
  char* take(std::size_t bytes);  // 64-byte aligned; null when there is no room left

 private:
  Region region_;
  std::size_t taken_ = 0;
};

enum class Source : int { f32 = 0, bf16 = 1, f16 = 2 };

// A matrix in somebody else's memory; strides in elements.
struct Matrix {
  const void* data;
  Source type;
  int rows, cols;
  std::ptrdiff_t row_stride, col_stride;
};

void read_row(const Matrix& matrix, int row, float* out);

// The weights of one linear layer, n outputs by k inputs, in panels of 16 outputs.
struct Packed {
  Packed() = default;
  // In the arena if there is room, which must live as long, else in a region of its own.
  Packed(Format format, int n, int k, Arena* arena = nullptr);

  // Packs the matrix as outputs first..; part 1 and 2 of a gated layer alternate in groups of 16.
  // Where fixed16 or float12 would lose too much of a row, everything becomes bf16.
  void add(const Matrix& matrix, int first, int part);
  void unpack_row(int row, float* out) const;  // k floats
  int panels() const { return (n + kPanel - 1) / kPanel; }
  std::size_t data_bytes() const { return panel_bytes(format, k) * panels(); }
  std::size_t memory_bytes() const { return data_bytes() + (scale.size() + sum.size()) * 4; }

  Format format = Format::f32;
  int n = 0, k = 0;
  char* data = nullptr;
  std::vector<float> scale;       // int8 and fixed16: value = scale * integer; float12: of sums
  std::vector<std::int32_t> sum;  // int8: sum of the integers of an output
  std::vector<float> bias;        // empty or 16 * panels

 private:
  bool add_row(const float* row, int at);  // false: the format does not suit the row
  void become_bf16();
  Region own_;
};

// Rows to look up, kept as float or bf16.
struct Table {
  Table() = default;
  Table(Format format, const Matrix& matrix);
  void row(int index, float* out) const;
  int rows = 0, cols = 0;
  Format format = Format::f32;
  Region data;
};

}  // namespace shoal
