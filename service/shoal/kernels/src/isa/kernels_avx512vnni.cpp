// The kernels for AVX-512 with VNNI; compiled with their flags.
#define SHOAL_VNNI 1
#include "isa/vec_avx512.h"
// first the Vec, then what is built on it
#include "isa/table.h"

const shoal::Kernels* shoal::avx512vnni_kernels() {
  static const Kernels table = make_kernels("avx512vnni");
  return &table;
}
