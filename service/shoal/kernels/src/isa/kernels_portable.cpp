#include "isa/vec_portable.h"
//
#include "isa/table.h"

const shoal::Kernels* shoal::portable_kernels() {
  static const Kernels table = make_kernels("portable");
  return &table;
}
