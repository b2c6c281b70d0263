// Which kernel sets this machine can run. Compiled without special flags: it must run anywhere.
#include <cstring>
#include <fstream>

#include "isa/kernels.h"

namespace shoal {
namespace {

#if defined(__x86_64__)
inline bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
#if defined(SHOAL_AVXVNNI)
inline bool has_avxvnni() { return has_avx2() && __builtin_cpu_supports("avxvnni"); }
#endif
inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
inline bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
inline bool has_avx512bf16() {
  return has_avx512vnni() && __builtin_cpu_supports("avx512bf16");
}
// Intel's products of bf16 take three times as long as VNNI's of 16-bit integers; AMD's are as fast.
inline bool is_slow_at_bf16() { return __builtin_cpu_is("intel"); }
#endif

}  // namespace

const Kernels* find_kernels(const char* name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  const struct {
    bool runs;
    const Kernels* (*table)();
  } sets[] = {  // those that were compiled, best first
#if defined(SHOAL_AVX512BF16)
      {has_avx512bf16() && !is_slow_at_bf16(), avx512bf16_kernels},
#endif
#if defined(SHOAL_AVX512VNNI)
      {has_avx512vnni(), avx512vnni_kernels},
#endif
#if defined(SHOAL_AVX512BF16)
      {has_avx512bf16(), avx512bf16_kernels},
#endif
#if defined(SHOAL_AVX512)
      {has_avx512(), avx512_kernels},
#endif
#if defined(SHOAL_AVXVNNI)
      {has_avxvnni(), avxvnni_kernels},
#endif
#if defined(SHOAL_AVX2)
      {has_avx2(), avx2_kernels},
#endif
      {true, portable_kernels}};
  const bool any = std::strcmp(name, "auto") == 0;
  for (const auto& set : sets)
    if (set.runs && (any || std::strcmp(name, set.table()->name) == 0)) return set.table();
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
