// Weights of the caller as a Matrix. Used by the bindings of the model and of single layers.
#pragma once
#include <optional>
#include <string>

#include "bindings/arrays.h"
#include "linear/packed_matrix.h"

namespace shoal {

using AnyArray = nb::ndarray<nb::ro, nb::device::cpu>;

// float32, float16, or uint16 holding the bits of bf16; a vector is a matrix of one row. Or, with
// the name of their kind, rows of quantized blocks as uint8. Throws std::invalid_argument for other
// arrays.
Matrix matrix_of(const AnyArray& array, const std::optional<std::string>& blocks = std::nullopt);

}  // namespace shoal
