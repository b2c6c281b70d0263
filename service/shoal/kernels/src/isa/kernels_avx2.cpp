// The kernels for AVX2 and FMA; compiled with their flags.
#include "isa/vec_avx2.h"
// first the Vec, then what is built on it
#include "isa/table.h"

const shoal::Kernels* shoal::avx2_kernels() {
  static const Kernels table = make_kernels("avx2");
  return &table;
}
