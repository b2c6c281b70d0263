// The weights of one linear layer, packed for the tiles, and matrices in the caller's memory that
// they are packed from. Used by model/.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/blocks.h"
#include "formats/format.h"
#include "memory/region.h"
#include "threads/thread_pool.h"

namespace shoal {

// A matrix [rows, cols] in the caller's memory; strides in elements, of any sign and size. Of
// blocks `cols` counts numbers, `row_stride` bytes, and a row's bytes lie side by side.
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
  // In the arena, which must live as long, or in a region of its own. Takes memory with the first
  // weight.
  PackedMatrix(Format format, int n, int k, Arena* arena = nullptr);

  // Before the first weight: some of the weights suit this format. The matrix takes the first one,
  // and of several one that holds what each of them holds.
  void propose(Format format);
  // Packs the matrix as outputs first.. of the part; blocks as they are where the format has groups
  // of 32. Where the format would lose too much of a row, all weights become bf16. The rows are
  // packed by the threads of the pool, each by itself, so their number changes nothing.
  void set_weight(const Matrix& matrix, int first, Part part, ThreadPool& pool);
  void set_bias(const float* bias, int count, int first, Part part);
  void unpack_row(int row, float* out) const;  // k floats

  int panels() const { return (n + kPanel - 1) / kPanel; }
  std::size_t data_bytes() const { return traits_of(format).panel_bytes(k) * panels(); }
  std::size_t memory_bytes() const { return data ? data_bytes() + scale.size() * 4 : 0; }

  Format format = Format::f32;
  int n = 0, k = 0;
  char* data = nullptr;
  std::vector<float> scale;  // [16 * panels] where the format has one
  std::vector<float> bias;   // [16 * panels], empty without

 private:
  void take_memory();
  char* panel_of(int output) const;
  // Rows begin..end-1; false: the format does not suit one of them.
  bool pack_rows(const Matrix& matrix, int begin, int end, int first, Part part);
  // False: the format does not suit the row.
  bool pack_row(const float* row, int output);
  bool pack_blocks(const Matrix& matrix, int row, int output);
  void fall_back_to_bf16();

  Arena* arena_ = nullptr;
  bool has_proposal_ = false;
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
