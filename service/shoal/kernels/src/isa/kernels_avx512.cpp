// The kernels for AVX-512 F, BW, DQ, VL; compiled with their flags.
#include "isa/vec_avx512.h"
// first the Vec, then what is built on it
#include "isa/table.h"

const shoal::Kernels* shoal::avx512_kernels() {
  static const Kernels table = make_kernels("avx512");
  return &table;
}
