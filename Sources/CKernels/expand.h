// Packed elements put back to where a bit mask says: the inverse of leaving out the others. Sources are read whole, 32 or 16 elements
// from any address, however many are used. Results go through pointers, since a function of one instruction set cannot return vectors to
// another's.
#ifndef ESPALIER_EXPAND_H
#define ESPALIER_EXPAND_H

#include "lanes.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// For each byte of a mask, by lane: which of the packed elements comes there, or 0x40 for none.
#define LANE(m, j) ((uint64_t)(((m) >> (j) & 1) ? __builtin_popcount((m) & ((1 << (j)) - 1)) : 0x40) << (8 * (j)))
#define EIGHT(m) (LANE(m, 0) | LANE(m, 1) | LANE(m, 2) | LANE(m, 3) | LANE(m, 4) | LANE(m, 5) | LANE(m, 6) | LANE(m, 7))
#define EIGHTS4(m) EIGHT(m), EIGHT((m) + 1), EIGHT((m) + 2), EIGHT((m) + 3)
#define EIGHTS16(m) EIGHTS4(m), EIGHTS4((m) + 4), EIGHTS4((m) + 8), EIGHTS4((m) + 12)
#define EIGHTS64(m) EIGHTS16(m), EIGHTS16((m) + 16), EIGHTS16((m) + 32), EIGHTS16((m) + 48)
static const uint64_t expanded_lanes[256] = {EIGHTS64(0), EIGHTS64(64), EIGHTS64(128), EIGHTS64(192)};

BODY void expand16_plain(uint32_t mask, const void *source, u32x16 *words) {
  const stored_16 *packed = source;
  uint16_t lanes[32];
  for (int lane = 0; lane < 32; lane++) {
    int bit = mask >> lane & 1;
    lanes[lane] = (uint16_t)(*packed & -bit);
    packed += bit;
  }
  memcpy(words, lanes, sizeof *words);
}

BODY void expand32_plain(uint32_t mask, const void *source, f32x16 *words) {
  const stored_32 *packed = source;
  uint32_t lanes[16];
  for (int lane = 0; lane < 16; lane++) {
    uint32_t bit = mask >> lane & 1;
    lanes[lane] = *packed & -bit;
    packed += bit;
  }
  memcpy(words, lanes, sizeof *words);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma,f16c,popcnt"), always_inline)) static inline void expand16_avx2(uint32_t mask, const void *source, u32x16 *words) {
  const char *packed = source;
  __m128i parts[4];
#pragma clang loop unroll(full)
  for (int part = 0; part < 4; part++) {
    uint32_t bits = mask >> (8 * part) & 0xFF;
    __m128i lanes = _mm_loadl_epi64((const __m128i *)(expanded_lanes + bits));
    // Bytes 2i and 2i + 1 of an element; 0x80 gives 0.
    __m128i bytes = _mm_unpacklo_epi8(lanes, lanes);
    bytes = _mm_add_epi8(_mm_add_epi8(bytes, bytes), _mm_set1_epi16(0x0100));
    parts[part] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)packed), bytes);
    packed += 2 * __builtin_popcount(bits);
  }
  memcpy(words, parts, sizeof *words);
}

#define EXPAND_TARGET target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2,avx2,fma,f16c,popcnt")

__attribute__((EXPAND_TARGET, always_inline)) static inline void expand16_avx512(uint32_t mask, const void *source, u32x16 *words) {
  __m512i packed = _mm512_loadu_si512(source);
  // Expanding from memory is microcoded on AMD, many times slower than from a register; the compiler must not join the two.
  __asm__("" : "+v"(packed));
  *words = (u32x16)_mm512_maskz_expand_epi16(mask, packed);
}

__attribute__((EXPAND_TARGET, always_inline)) static inline void expand32_avx512(uint32_t mask, const void *source, f32x16 *words) {
  __m512 packed = _mm512_loadu_ps(source);
  __asm__("" : "+v"(packed));
  *words = (f32x16)_mm512_maskz_expand_ps((__mmask16)mask, packed);
}
#elif defined(__aarch64__)
BODY void expand16_neon(uint32_t mask, const void *source, u32x16 *words) {
  const uint8_t *packed = source;
  uint8x16_t parts[4];
#pragma clang loop unroll(full)
  for (int part = 0; part < 4; part++) {
    uint32_t bits = mask >> (8 * part) & 0xFF;
    uint8x8_t lanes = vcreate_u8(expanded_lanes[bits]);
    // Bytes 2i and 2i + 1 of an element; 0x80 gives 0.
    uint8x16_t bytes = vcombine_u8(vzip1_u8(lanes, lanes), vzip2_u8(lanes, lanes));
    bytes = vaddq_u8(vaddq_u8(bytes, bytes), vreinterpretq_u8_u16(vdupq_n_u16(0x0100)));
    parts[part] = vqtbl1q_u8(vld1q_u8(packed), bytes);
    packed += 2 * __builtin_popcount(bits);
  }
  memcpy(words, parts, sizeof *words);
}
#endif

#endif
