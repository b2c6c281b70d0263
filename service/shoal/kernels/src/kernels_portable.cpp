#include "simd_portable.h"
//
#include "attention.h"

const shoal::Kernels* shoal::portable_kernels() {
  static const Kernels table = make_kernels("portable");
  return &table;
}
