// The nanobind bindings of the library: shoal.kernels._native. Its typed face is _native.pyi.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "isa/kernels.h"

NB_MODULE(_native, module) {
  module.def("kernel_sets", [] {
    const std::string best = shoal::find_kernels("auto")->name;
    std::vector<std::string> names = {best};
    for (const char* name : {"avx512bf16", "avx512vnni", "avx512", "avxvnni", "avx2", "portable"})
      if (name != best && shoal::find_kernels(name)) names.emplace_back(name);
    return names;
  });
  shoal::bind_linear(module);
  shoal::bind_model(module);
  shoal::bind_sampler(module);
  shoal::bind_tracker(module);
}
