// The kernels for AVX2 and FMA with AVX-VNNI; compiled with their flags.
#define SHOAL_AVXVNNI_SET 1
#include "isa/vec_avx2.h"
// first the Vec, then what is built on it
#include "isa/table.h"

const shoal::Kernels* shoal::avxvnni_kernels() {
  static const Kernels table = make_kernels("avxvnni");
  return &table;
}
