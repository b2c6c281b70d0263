// The kernels for any machine; compiled without special flags.
#include "isa/vec_portable.h"
// first the Vec, then what is built on it
#include "isa/table.h"

const shoal::Kernels* shoal::portable_kernels() {
  static const Kernels table = make_kernels("portable");
  return &table;
}
