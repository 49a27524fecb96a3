#include "CKernels.h"

#include <stdatomic.h>

static atomic_int best = -1;
static _Thread_local int limit = 99;

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
  int tier = atomic_load_explicit(&best, memory_order_relaxed);
  if (tier < 0) {
    tier = detect();
    atomic_store_explicit(&best, tier, memory_order_relaxed);
  }
  return tier < limit ? tier : limit;
}

int espalier_isa_limit_here(void) { return limit; }

int espalier_isa_limit(int tier) {
  limit = tier < 0 ? 0 : tier;
  return espalier_isa();
}
