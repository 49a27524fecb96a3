#include "CKernels.h"

#include <stdatomic.h>

static atomic_int current = -1;

static int detect(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

int espalier_isa(void) {
  int tier = atomic_load_explicit(&current, memory_order_relaxed);
  if (tier >= 0) return tier;
  tier = detect();
  atomic_store_explicit(&current, tier, memory_order_relaxed);
  return tier;
}

int espalier_isa_limit(int tier) {
  int best = detect();
  if (tier < best) best = tier < 0 ? 0 : tier;
  atomic_store_explicit(&current, best, memory_order_relaxed);
  return best;
}
