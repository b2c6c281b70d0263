// Array types of the nanobind bindings. Included by the other files of this folder.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

#include "require.h"

namespace shoal {

namespace nb = nanobind;

template <class T, int Dims>
using Array = nb::ndarray<T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
using Int32s = Array<const std::int32_t, 1>;

void bind_model(nb::module_& module);    // model_bindings.cpp
void bind_linear(nb::module_& module);   // linear_bindings.cpp
void bind_sampler(nb::module_& module);  // sampler_bindings.cpp
void bind_tracker(nb::module_& module);  // tracker_bindings.cpp

}  // namespace shoal
