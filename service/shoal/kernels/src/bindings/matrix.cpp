// Which arrays can be weights.
#include "bindings/matrix.h"

namespace shoal {
namespace {

// Rows of blocks, a row's bytes side by side.
Matrix matrix_of_blocks(const AnyArray& array, const std::string& name) {
  const Source source = block_source(name.c_str());
  const BlockType& type = *block_type(source);
  require(array.ndim() == 2 && array.dtype() == nb::dtype<std::uint8_t>() && array.stride(1) == 1 &&
              array.shape(1) % type.bytes == 0,
          "weights of " + name + " blocks must be [rows, bytes of whole blocks] of uint8");
  return {array.data(), source, static_cast<int>(array.shape(0)),
          static_cast<int>(array.shape(1) / type.bytes) * type.numbers, array.stride(0), 1};
}

}  // namespace

Matrix matrix_of(const AnyArray& array, const std::optional<std::string>& blocks) {
  if (blocks) return matrix_of_blocks(array, *blocks);
  require(array.ndim() == 1 || array.ndim() == 2, "weights must be vectors or matrices");
  const std::size_t last = array.ndim() - 1;
  Matrix m{array.data(), Source::f32, last ? static_cast<int>(array.shape(0)) : 1,
           static_cast<int>(array.shape(last)), last ? array.stride(0) : 0, array.stride(last)};
  if (array.dtype() == nb::dtype<std::uint16_t>())
    m.type = Source::bf16;
  else if (array.dtype().code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float) &&
           array.dtype().bits == 16)
    m.type = Source::f16;
  else
    require(array.dtype() == nb::dtype<float>(), "weights must be float32, float16 or bf16 bits");
  return m;
}

}  // namespace shoal
