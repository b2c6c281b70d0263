#include "isa/vec_avx2.h"
//
#include "isa/table.h"

const shoal::Kernels* shoal::avx2_kernels() {
  static const Kernels table = make_kernels("avx2");
  return &table;
}
