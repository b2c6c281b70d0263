#include "simd_avx2.h"
//
#include "attention.h"

const shoal::Kernels* shoal::avx2_kernels() {
  static const Kernels table = make_kernels("avx2");
  return &table;
}
