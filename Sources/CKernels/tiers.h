// One portable body, compiled once for every instruction set; the best is chosen at run time.
#ifndef ESPALIER_TIERS_H
#define ESPALIER_TIERS_H

#include "CKernels.h"

#define BODY static inline __attribute__((always_inline))

// Elements of a file, which may lie at any address.
typedef uint16_t stored_16 __attribute__((aligned(1), may_alias));
typedef uint32_t stored_32 __attribute__((aligned(1), may_alias));
typedef float stored_float __attribute__((aligned(1), may_alias));

#if defined(__x86_64__)
#define TIERS(result, name, parameters, arguments)                                                                \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))) static result name##_avx512 parameters { \
    return name##_body arguments;                                                                                 \
  }                                                                                                               \
  __attribute__((target("avx2,fma,f16c"))) static result name##_avx2 parameters { return name##_body arguments; } \
  static result name##_plain parameters { return name##_body arguments; }                                         \
  result espalier_##name parameters {                                                                             \
    int tier = espalier_isa();                                                                                    \
    if (tier == 2) return name##_avx512 arguments;                                                                \
    if (tier == 1) return name##_avx2 arguments;                                                                  \
    return name##_plain arguments;                                                                                \
  }
#else
// Other processors (Arm: NEON) have their vector instructions in the base set.
#define TIERS(result, name, parameters, arguments) \
  result espalier_##name parameters { return name##_body arguments; }
#endif

#endif
