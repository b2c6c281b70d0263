#include "simd_avx512.h"
//
#include "attention.h"

const shoal::Kernels* shoal::avx512_kernels() {
  static const Kernels table = make_kernels("avx512");
  return &table;
}
