#define SHOAL_VNNI 1
#include "simd_avx512.h"
//
#include "attention.h"

const shoal::Kernels* shoal::avx512bf16_kernels() {
  static const Kernels table = make_kernels("avx512bf16");
  return &table;
}
