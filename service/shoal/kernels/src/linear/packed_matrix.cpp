// Packing row by row, whatever the format; see formats/.
#include "linear/packed_matrix.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>

#include "formats/numbers.h"

namespace shoal {
namespace {

// Where output i of a part stands among all outputs.
int place_of(int i, PackedMatrix::Part part) {
  if (part == PackedMatrix::Part::whole) return i;
  const int second = part == PackedMatrix::Part::up ? kPanel : 0;
  return i / kPanel * 2 * kPanel + second + i % kPanel;
}

bool has_groups(Format format) { return traits_of(format).pack_groups != nullptr; }

// A format that holds what either holds.
Format wider(Format a, Format b) {
  if (a == b) return a;
  if (has_groups(a) && has_groups(b)) return Format::int8_min;
  if (has_groups(a)) return b;
  return has_groups(b) ? a : Format::f32;
}

const unsigned char* blocks_of(const Matrix& m, int row) {
  return static_cast<const unsigned char*>(m.data) + row * m.row_stride;
}

}  // namespace

void read_row(const Matrix& m, int row, float* out) {
  if (block_type(m.type)) return read_blocks(m.type, blocks_of(m, row), m.cols, out);
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

PackedMatrix::PackedMatrix(Format format, int n, int k, Arena* arena)
    : format(format), n(n), k(k), arena_(arena) {}

void PackedMatrix::propose(Format proposed) {
  format = has_proposal_ ? wider(format, proposed) : proposed;
  has_proposal_ = true;
}

void PackedMatrix::take_memory() {
  if (!arena_) own_ = Region(data_bytes(), true);
  data = arena_ ? arena_->take(data_bytes()) : own_.data();
  if (traits_of(format).has_scale) scale.resize(panels() * kPanel);
}

void PackedMatrix::set_weight(const Matrix& matrix, int first, Part part, ThreadPool& pool) {
  if (!data) take_memory();
  // A task has whole panels: lanes of one may share bytes.
  const int skipped = first % kPanel, rows = matrix.rows;
  std::atomic<bool> suits{true};
  pool.for_each((skipped + rows + kPanel - 1) / kPanel, [&](int panel) {
    const int begin = std::max(0, panel * kPanel - skipped);
    const int end = std::min(rows, (panel + 1) * kPanel - skipped);
    if (suits && !pack_rows(matrix, begin, end, first, part)) suits = false;
  });
  if (suits) return;
  fall_back_to_bf16();
  set_weight(matrix, first, part, pool);
}

bool PackedMatrix::pack_rows(const Matrix& matrix, int begin, int end, int first, Part part) {
  const bool keeps_blocks = block_type(matrix.type) && has_groups(format);
  std::vector<float> row(matrix.cols);
  for (int i = begin; i < end; ++i) {
    const int output = first + place_of(i, part);
    if (keeps_blocks && pack_blocks(matrix, i, output)) continue;
    read_row(matrix, i, row.data());
    if (!pack_row(row.data(), output)) return false;
  }
  return true;
}

void PackedMatrix::set_bias(const float* values, int count, int first, Part part) {
  bias.resize(panels() * kPanel);
  for (int i = 0; i < count; ++i) bias[first + place_of(i, part)] = values[i];
}

void PackedMatrix::fall_back_to_bf16() {
  PackedMatrix other(Format::bf16, n, k);
  other.take_memory();
  std::vector<float> row(k);
  for (int i = 0; i < panels() * kPanel; ++i) {
    unpack_row(i, row.data());
    other.pack_row(row.data(), i);
  }
  other.bias = std::move(bias);
  *this = std::move(other);
}

char* PackedMatrix::panel_of(int output) const {
  return data + traits_of(format).panel_bytes(k) * (output / kPanel);
}

bool PackedMatrix::pack_row(const float* row, int output) {
  const FormatTraits& traits = traits_of(format);
  Channel channel;
  if (!traits.pack(row, k, panel_of(output), output % kPanel, channel)) return false;
  if (traits.has_scale) scale[output] = channel.scale;
  return true;
}

bool PackedMatrix::pack_blocks(const Matrix& matrix, int row, int output) {
  thread_local GroupedRow groups;
  return read_groups(matrix.type, blocks_of(matrix, row), k, groups) &&
         traits_of(format).pack_groups(groups, k, panel_of(output), output % kPanel);
}

void PackedMatrix::unpack_row(int row, float* out) const {
  const FormatTraits& traits = traits_of(format);
  Channel channel;
  if (traits.has_scale) channel.scale = scale[row];
  traits.unpack(panel_of(row), row % kPanel, channel, k, out);
}

Table::Table(Format format, const Matrix& matrix)
    : cols_(matrix.cols),
      format_(format == Format::f32 ? Format::f32 : Format::bf16),
      data_(static_cast<std::size_t>(matrix.rows) * cols_ * (format_ == Format::f32 ? 4 : 2)) {
  std::vector<float> row(cols_);
  for (int i = 0; i < matrix.rows; ++i) {
    const std::size_t at = static_cast<std::size_t>(i) * cols_;
    if (format_ == Format::f32) {
      read_row(matrix, i, data_.as<float>() + at);
      continue;
    }
    read_row(matrix, i, row.data());
    for (int j = 0; j < cols_; ++j) data_.as<std::uint16_t>()[at + j] = bf16_of(row[j]);
  }
}

void Table::row(int index, float* out) const {
  const std::size_t at = static_cast<std::size_t>(index) * cols_;
  if (format_ == Format::f32)
    std::memcpy(out, data_.as<float>() + at, sizeof(float) * cols_);
  else
    for (int i = 0; i < cols_; ++i) out[i] = float_of_bf16(data_.as<std::uint16_t>()[at + i]);
}

}  // namespace shoal
