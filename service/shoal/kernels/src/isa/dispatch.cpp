// Which kernel sets this machine can run. Compiled without special flags: it must run anywhere.
#include <cstring>
#include <fstream>

#include "isa/kernels.h"

namespace shoal {
namespace {

#if defined(SHOAL_X86)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif

}  // namespace

const Kernels* find_kernels(const char* name) {
  const bool any = std::strcmp(name, "auto") == 0;
#if defined(SHOAL_X86)
  __builtin_cpu_init();
  const struct {
    bool runs;
    const Kernels* (*table)();
  } sets[] = {{has_avx512bf16(), avx512bf16_kernels},
              {has_avx512(), avx512_kernels},
              {has_avx2(), avx2_kernels}};
  for (const auto& set : sets)
    if (set.runs && (any || std::strcmp(name, set.table()->name) == 0)) return set.table();
#endif
  if (any || std::strcmp(name, "portable") == 0) return portable_kernels();
  return nullptr;
}

// sysconf() adds up all third-level caches of the machine; a core reads through one.
std::size_t last_cache_bytes() {
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");  // "32768K"
  std::size_t size = 0;
  char unit = 0;
  if (!(file >> size)) return 0;
  file >> unit;
  return size << (unit == 'K' ? 10 : unit == 'M' ? 20 : 0);
}

}  // namespace shoal
