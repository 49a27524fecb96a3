#include "expand.h"

// Bytes of a weight that are fetched ahead. The processor does that itself for one token and whole rows, but loses a stream whose steps
// vary, and one beside the states of many tokens. Into the second cache: the first has too few requests at a time.
enum { AHEAD = 8192 };

int espalier_few_pairs(void) {
#if defined(__x86_64__)
  return espalier_has_bf16() && __builtin_cpu_supports("avx512vbmi2");
#else
  return 0;
#endif
}

size_t espalier_few_words(size_t columns, int paired) { return (columns + 31) / 32 * (paired ? 16 : 32); }

BODY void few_pack_body(size_t columns, float *restrict x, int paired, size_t tokens, size_t n, uint32_t *restrict words) {
  size_t step = paired ? 16 : 32;
  for (size_t chunk = 0; chunk < columns; chunk += 32, words += step * tokens) {
    size_t count = columns - chunk < 32 ? columns - chunk : 32;
    if (paired) {
      if (count < 32) memset(words, 0, step * sizeof *words);
      espalier_round_bf16(count, x + chunk, (uint16_t *)words);
    } else {
      // Even columns, then odd ones, as pairs of 16 bits are widened.
      float *states = (float *)words;
      for (size_t i = 0; i < 32; i++) states[i / 2 + i % 2 * 16] = i < count ? x[chunk + i] : 0;
    }
  }
}
TIERS(void, few_pack, (size_t columns, float *x, int paired, size_t tokens, size_t n, uint32_t *words),
      (columns, x, paired, tokens, n, words))

BODY float total16(const f32x16 *x) {
  f32x8 eight = x->lo + x->hi;
  f32x4 four = eight.lo + eight.hi;
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// As in convert.c: a multiplication moves the exponent, and normalizes the subnormals.
BODY void widen_f16(const u32x16 *halves, f32x16 *x) {
  u32x16 magnitude = (*halves & 0x7FFF) << 13;
  u32x16 scaled = (u32x16)((f32x16)magnitude * 0x1p112f);
  u32x16 special = magnitude | 0x7F800000;
  *x = (f32x16)((magnitude >= 0x0F800000 ? special : scaled) | (*halves & 0x8000) << 16);
}

#define NO_PAIRS(sum, x, y) (sum)

#if defined(__x86_64__)
#define TIER(name) name##_avx512pairs
#define TIER_TARGET target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2,avx512bf16,avx2,fma,f16c,popcnt")
#define EXPAND16 expand16_avx512
#define EXPAND32 expand32_avx512
#define MOST 8
#define PAIRS 1
#define PAIRED(sum, x, y) ((f32x16)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(x), (__m512bh)(y)))
#include "rowproduct.h"
#undef TIER
#undef TIER_TARGET
#undef PAIRS
#undef PAIRED

#define TIER(name) name##_avx512
#define TIER_TARGET EXPAND_TARGET
#define PAIRS 0
#define PAIRED NO_PAIRS
#include "rowproduct.h"
#undef TIER
#undef TIER_TARGET
#undef EXPAND16
#undef EXPAND32
#undef MOST

#define TIER(name) name##_avx2
#define TIER_TARGET target("avx2,fma,f16c,popcnt")
#define EXPAND16 expand16_avx2
#define EXPAND32 expand32_plain
#define MOST 2
#include "rowproduct.h"
#undef TIER
#undef TIER_TARGET
#undef EXPAND16
#undef EXPAND32
#undef PAIRS
#undef PAIRED
#endif

#define TIER(name) name##_plain
#define PAIRS 0
#define PAIRED NO_PAIRS
#define EXPAND32 expand32_plain
#undef MOST
#define MOST 4
#if defined(__aarch64__)
#define TIER_TARGET unused
#define EXPAND16 expand16_neon
#else
#define TIER_TARGET unused
#define EXPAND16 expand16_plain
#endif
#include "rowproduct.h"

#define ARGUMENTS (type, rows, columns, values, value_bytes, bits, tokens, paired, x, add, y, stride)

void espalier_few_product(int type, size_t rows, size_t columns, const void *values, size_t value_bytes, const uint8_t *bits,
                          size_t tokens, int paired, size_t n, const uint32_t *x, int add, size_t y_count, float *y, size_t stride) {
#if defined(__x86_64__)
  int tier = espalier_isa();
  if (paired && !espalier_few_pairs()) __builtin_trap();
  if (paired) return few_avx512pairs ARGUMENTS;
  if (tier == 2 && __builtin_cpu_supports("avx512vbmi2")) return few_avx512 ARGUMENTS;
  if (tier >= 1) return few_avx2 ARGUMENTS;
#else
  if (paired) __builtin_trap();
#endif
  few_plain ARGUMENTS;
}
