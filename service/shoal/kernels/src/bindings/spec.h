// Reads a `shoal.model.spec.DecoderSpec`. Called by model_bindings.cpp.
#pragma once
#include <nanobind/nanobind.h>

#include "model/config.h"

namespace shoal {

// Throws std::invalid_argument for a feature that the library lacks; native.supports() names it
// beforehand.
ModelConfig read_spec(const nanobind::handle& spec, int num_token_ids);

}  // namespace shoal
