#define SHOAL_VNNI 1
#include "isa/vec_avx512.h"
//
#include "isa/table.h"

const shoal::Kernels* shoal::avx512bf16_kernels() {
  static const Kernels table = make_kernels("avx512bf16");
  return &table;
}
