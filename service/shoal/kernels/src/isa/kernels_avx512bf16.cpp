// The kernels for AVX-512 with bf16 and VNNI; compiled with their flags.
#define SHOAL_VNNI 1
#define SHOAL_BF16 1
#include "isa/vec_avx512.h"
// first the Vec, then what is built on it
#include "isa/table.h"

const shoal::Kernels* shoal::avx512bf16_kernels() {
  static const Kernels table = make_kernels("avx512bf16");
  return &table;
}
