// One linear layer by itself: what a format keeps of its weights, and its products.
// Called by ../linear.py.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "bindings/matrix.h"
#include "isa/kernels.h"

namespace shoal {
namespace {

Format format_named(const std::string& wanted) {
  const char* const names[] = {
#define SHOAL_FORMAT_NAME(name, Traits) #name,
      SHOAL_FORMATS(SHOAL_FORMAT_NAME)
#undef SHOAL_FORMAT_NAME
  };
  for (int i = 0; i < kNumFormats; ++i)
    if (wanted == names[i]) return static_cast<Format>(i);
  throw std::invalid_argument("no format is called " + wanted);
}

PackedMatrix packed(const Matrix& matrix, const std::string& format) {
  PackedMatrix weights(format_named(format), matrix.rows, matrix.cols);
  ThreadPool caller_alone(1, 0);
  weights.set_weight(matrix, 0, PackedMatrix::Part::whole, caller_alone);
  return weights;
}

void unpack(const AnyArray& array, const std::optional<std::string>& blocks,
            const std::string& format, Array<float, 2> out) {
  const Matrix matrix = matrix_of(array, blocks);
  require(static_cast<int>(out.shape(0)) == matrix.rows &&
              static_cast<int>(out.shape(1)) == matrix.cols,
          "out must be shaped like the weights");
  const PackedMatrix weights = packed(matrix, format);
  for (int i = 0; i < matrix.rows; ++i) weights.unpack_row(i, &out(i, 0));
}

void multiply(const Array<const float, 2>& x, const AnyArray& array,
              const std::optional<std::string>& blocks, const std::string& format,
              const std::string& kernel_set, Array<float, 2> out) {
  const Kernels* kernels = find_kernels(kernel_set.c_str());
  require(kernels, "this machine cannot run that kernel set");
  const Matrix matrix = matrix_of(array, blocks);
  const int rows = static_cast<int>(x.shape(0)), k = matrix.cols, padded = round_up(k, kPanel);
  const std::size_t n = matrix.rows;
  require(static_cast<int>(x.shape(1)) == k && out.shape(0) == x.shape(0) && out.shape(1) == n,
          "x must be [rows, inputs], out [rows, outputs]");
  require(rows > 0 && rows <= kMaxLinearRows, "a kernel takes 1..96 rows");
  const PackedMatrix weights = packed(matrix, format);
  const FormatKernels& kernel = kernels->formats[static_cast<int>(weights.format)];
  require(kernel.linear, "the kernel set has no tile for " + format);
  const std::size_t stride = round_up(static_cast<int>(kernel.row_bytes(padded)), 64);
  Region prepared(stride * rows);
  std::vector<float> row(padded), sums(static_cast<std::size_t>(rows) * weights.panels() * kPanel);
  for (int r = 0; r < rows; ++r) {
    std::copy_n(&x(r, 0), k, row.data());
    char* to = prepared.data() + r * stride;
    if (kernel.prepare_row)
      kernel.prepare_row(row.data(), k, to);
    else
      std::copy_n(row.data(), padded, reinterpret_cast<float*>(to));
  }
  LinearArgs args{};
  args.x = prepared.data();
  args.x_stride = stride;
  args.panels = weights.data;
  args.w_scale = weights.scale.data();
  args.k = k;
  args.rows = rows;
  args.p1 = weights.panels();
  args.out = sums.data();
  args.out_stride = static_cast<std::size_t>(weights.panels()) * kPanel;
  kernel.linear(args);
  for (int r = 0; r < rows; ++r) std::copy_n(sums.data() + r * args.out_stride, n, &out(r, 0));
}

}  // namespace

void bind_linear(nb::module_& module) {
  module.def("unpack", &unpack, nb::arg(), nb::arg().none(), nb::arg(), nb::arg());
  module.def("multiply", &multiply, nb::arg(), nb::arg(), nb::arg().none(), nb::arg(), nb::arg(),
             nb::arg());
}

}  // namespace shoal
