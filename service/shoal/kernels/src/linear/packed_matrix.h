// The weights of one linear layer, packed for the tiles, and matrices in the caller's memory that
// they are packed from. Used by model/.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/format.h"
#include "memory/region.h"

namespace shoal {

enum class Source : int { f32, bf16, f16 };

// A matrix [rows, cols] in the caller's memory; strides in elements, of any sign and size.
struct Matrix {
  const void* data;
  Source type;
  int rows, cols;
  std::ptrdiff_t row_stride, col_stride;
};

void read_row(const Matrix& matrix, int row, float* out);  // cols floats

// n outputs by k inputs, in panels of 16 outputs, with a bias per output where there is one.
class PackedMatrix {
 public:
  // Outputs of several matrices in one: one below the other, or in turn 16 of the gate and 16 of
  // up.
  enum class Part { whole, gate, up };

  PackedMatrix() = default;
  // In the arena if there is room, which must live as long, else in a region of its own.
  PackedMatrix(Format format, int n, int k, Arena* arena = nullptr);

  // Packs the matrix as outputs first.. of the part. Where the format would lose too much of a row,
  // all weights become bf16.
  void set_weight(const Matrix& matrix, int first, Part part);
  void set_bias(const float* bias, int count, int first, Part part);
  void unpack_row(int row, float* out) const;  // k floats

  int panels() const { return (n + kPanel - 1) / kPanel; }
  std::size_t data_bytes() const { return traits_of(format).panel_bytes(k) * panels(); }
  std::size_t memory_bytes() const { return data_bytes() + (scale.size() + sum.size()) * 4; }

  Format format = Format::f32;
  int n = 0, k = 0;
  char* data = nullptr;
  std::vector<float> scale;       // [16 * panels] where the format has one
  std::vector<std::int32_t> sum;  // the same
  std::vector<float> bias;        // [16 * panels], empty without

 private:
  bool pack_row(const float* row, int output);  // false: the format does not suit the row
  void fall_back_to_bf16();
  Region own_;
};

// Rows to look up, kept as float or bf16.
class Table {
 public:
  Table() = default;
  Table(Format format, const Matrix& matrix);
  void row(int index, float* out) const;  // cols floats
  std::size_t bytes() const { return data_.bytes(); }

 private:
  int cols_ = 0;
  Format format_ = Format::f32;
  Region data_;
};

}  // namespace shoal
