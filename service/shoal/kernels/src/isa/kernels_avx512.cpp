#include "isa/vec_avx512.h"
//
#include "isa/table.h"

const shoal::Kernels* shoal::avx512_kernels() {
  static const Kernels table = make_kernels("avx512");
  return &table;
}
