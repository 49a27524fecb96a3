#include "lanes.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// ---- The mask

// Up to 64 bits from bit i of n on, i a multiple of 8; bits past the last are 0.
BODY uint64_t bits_at(const uint8_t *kept, size_t i, size_t n) {
  uint64_t bits = 0;
  memcpy(&bits, kept + i / 8, n - i >= 64 ? 8 : (n - i + 7) / 8);
  return n - i >= 64 ? bits : bits & ((1ull << (n - i)) - 1);
}

// For eight elements the index of each among the values, one byte each; a byte of 0x80 for an element that is not kept.
BODY uint64_t places_of8(uint64_t eight) {
  const uint64_t ones = 0x0101010101010101;
  uint64_t lanes = (((eight * ones & 0x8040201008040201) + 0x7F * ones) >> 7) & ones;
  // The product sums up all lower bytes.
  return (lanes * ones - lanes) | (lanes ^ ones) << 7;
}

// ---- One element at a time

// Without branches on the mask while there are values; after the last one all is 0.
#define EXPAND_REST(element, stored)                       \
  for (; i < n && taken < count; i++) {                    \
    element bit = kept[i / 8] >> (i % 8) & 1;              \
    x[i] = ((const stored *)values)[taken] & (element)-bit; \
    taken += bit;                                          \
  }                                                        \
  for (; i < n; i++) {                                     \
    taken += kept[i / 8] >> (i % 8) & 1;                   \
    x[i] = 0;                                              \
  }

#define PARAMETERS(element) \
  (size_t n, size_t bytes, const uint8_t *restrict kept, size_t count, const void *restrict values, element *restrict x)
#define ARGUMENTS (n, bytes, kept, count, values, x)

#if defined(__x86_64__)

// ---- AVX-512 with VBMI2: 32 elements at a time

#define VBMI2 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx2,fma,popcnt")))

// Hides that the values come from memory: an expansion from memory is microcoded on AMD, and many times as slow.
#define IN_REGISTER(x) __asm__("" : "+v"(x))

VBMI2 static size_t expand_16_avx512 PARAMETERS(uint16_t) {
  size_t taken = 0;
  for (size_t i = 0; i < n; i += 32) {
    __mmask32 bits = (__mmask32)bits_at(kept, i, n);
    size_t left = taken < count ? count - taken : 0;
    const char *next = (const char *)values + (taken < count ? taken : count) * 2;
    __m512i some = left >= 32 ? _mm512_loadu_si512(next) : _mm512_maskz_loadu_epi16((__mmask32)((1ull << left) - 1), next);
    IN_REGISTER(some);
    __m512i expanded = _mm512_maskz_expand_epi16(bits, some);
    if (n - i >= 32)
      _mm512_storeu_si512(x + i, expanded);
    else
      _mm512_mask_storeu_epi16(x + i, (__mmask32)((1ull << (n - i)) - 1), expanded);
    taken += (size_t)__builtin_popcount(bits);
  }
  return taken;
}

VBMI2 static size_t expand_32_avx512 PARAMETERS(uint32_t) {
  size_t taken = 0;
  for (size_t i = 0; i < n; i += 16) {
    __mmask16 bits = (__mmask16)bits_at(kept, i, n);
    size_t left = taken < count ? count - taken : 0;
    const char *next = (const char *)values + (taken < count ? taken : count) * 4;
    __m512i some = left >= 16 ? _mm512_loadu_si512(next) : _mm512_maskz_loadu_epi32((__mmask16)((1u << left) - 1), next);
    IN_REGISTER(some);
    __m512i expanded = _mm512_maskz_expand_epi32(bits, some);
    if (n - i >= 16)
      _mm512_storeu_si512(x + i, expanded);
    else
      _mm512_mask_storeu_epi32(x + i, (__mmask16)((1u << (n - i)) - 1), expanded);
    taken += (size_t)__builtin_popcount(bits);
  }
  return taken;
}

// ---- AVX2: eight elements at a time

#define AVX2 __attribute__((target("avx2,fma,f16c,popcnt")))

AVX2 static size_t expand_16_avx2 PARAMETERS(uint16_t) {
  size_t taken = 0, i = 0;
  for (; i + 8 <= n && taken + 8 <= count; i += 8) {
    __m128i place = _mm_cvtsi64_si128((long long)places_of8(kept[i / 8]));
    // Bytes 2p and 2p + 1 of the values at place p; 0x80 saturates and stays a zero.
    __m128i twice = _mm_adds_epu8(_mm_unpacklo_epi8(place, place), _mm_unpacklo_epi8(place, place));
    __m128i bytes_of = _mm_or_si128(twice, _mm_set1_epi16(0x0100));
    __m128i some = _mm_loadu_si128((const __m128i *)((const char *)values + taken * 2));
    _mm_storeu_si128((__m128i *)(x + i), _mm_shuffle_epi8(some, bytes_of));
    taken += (size_t)__builtin_popcount(kept[i / 8]);
  }
  EXPAND_REST(uint16_t, stored_16)
  return taken;
}

AVX2 static size_t expand_32_avx2 PARAMETERS(uint32_t) {
  size_t taken = 0, i = 0;
  for (; i + 8 <= n && taken + 8 <= count; i += 8) {
    __m256i place = _mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)places_of8(kept[i / 8])));
    __m256i some = _mm256_loadu_si256((const __m256i *)((const char *)values + taken * 4));
    __m256i moved = _mm256_permutevar8x32_epi32(some, place);
    _mm256_storeu_si256((__m256i *)(x + i), _mm256_andnot_si256(_mm256_srai_epi32(place, 31), moved));
    taken += (size_t)__builtin_popcount(kept[i / 8]);
  }
  EXPAND_REST(uint32_t, stored_32)
  return taken;
}
#endif

// ---- Other processors

static size_t expand_16_plain PARAMETERS(uint16_t) {
  size_t taken = 0, i = 0;
#if defined(__aarch64__)
  for (; i + 8 <= n && taken + 8 <= count; i += 8) {
    uint8x8_t place = vcreate_u8(places_of8(kept[i / 8]));
    uint8x16_t twice = vqaddq_u8(vcombine_u8(vzip1_u8(place, place), vzip2_u8(place, place)),
                                 vcombine_u8(vzip1_u8(place, place), vzip2_u8(place, place)));
    uint8x16_t bytes_of = vorrq_u8(twice, vreinterpretq_u8_u16(vdupq_n_u16(0x0100)));
    uint8x16_t some = vld1q_u8((const uint8_t *)values + taken * 2);
    vst1q_u8((uint8_t *)(x + i), vqtbl1q_u8(some, bytes_of));
    taken += (size_t)__builtin_popcount(kept[i / 8]);
  }
#endif
  EXPAND_REST(uint16_t, stored_16)
  return taken;
}

static size_t expand_32_plain PARAMETERS(uint32_t) {
  size_t taken = 0, i = 0;
  EXPAND_REST(uint32_t, stored_32)
  return taken;
}

#if defined(__x86_64__)
#define CHOOSE(name)                                                                                        \
  int tier = espalier_isa();                                                                                \
  if (tier == 2 && __builtin_cpu_supports("avx512vbmi2")) return name##_avx512 ARGUMENTS;                   \
  if (tier >= 1) return name##_avx2 ARGUMENTS;                                                              \
  return name##_plain ARGUMENTS;
#else
#define CHOOSE(name) return name##_plain ARGUMENTS;
#endif

size_t espalier_expand_16 PARAMETERS(uint16_t) { CHOOSE(expand_16) }
size_t espalier_expand_32 PARAMETERS(uint32_t) { CHOOSE(expand_32) }

BODY size_t count_bits_body(size_t bytes, const uint8_t *bits) {
  size_t count = 0, i = 0;
  for (; i + 8 <= bytes; i += 8) {
    uint64_t word;
    memcpy(&word, bits + i, sizeof word);
    count += (size_t)__builtin_popcountll(word);
  }
  for (; i < bytes; i++) count += (size_t)__builtin_popcount(bits[i]);
  return count;
}
TIERS(size_t, count_bits, (size_t bytes, const uint8_t *bits), (bytes, bits))

// ---- The way back

// Sixteen elements at a time.
#define NONZERO(name, element, lanes)                                                                              \
  BODY size_t name(size_t n, const void *restrict values, size_t bytes, uint8_t *restrict kept) {                  \
    const char *x = values;                                                                                        \
    size_t count = 0, i = 0;                                                                                       \
    for (; i + 16 <= n; i += 16) {                                                                                 \
      boolx16 packed = __builtin_convertvector(*(const lanes *)(x + i * sizeof(element)) != 0, boolx16);           \
      memcpy(kept + i / 8, &packed, 2);                                                                            \
      count += (size_t)__builtin_popcount(kept[i / 8] | kept[i / 8 + 1] << 8);                                     \
    }                                                                                                              \
    if (i < n) memset(kept + i / 8, 0, (n - i + 7) / 8);                                                           \
    for (; i < n; i++) {                                                                                           \
      element value;                                                                                               \
      memcpy(&value, x + i * sizeof value, sizeof value);                                                          \
      kept[i / 8] |= (uint8_t)((value != 0) << (i % 8));                                                           \
      count += value != 0;                                                                                         \
    }                                                                                                              \
    return count;                                                                                                  \
  }
NONZERO(mark_nonzero_16_body, uint16_t, u16x16)
TIERS(size_t, mark_nonzero_16, (size_t n, const void *values, size_t bytes, uint8_t *kept), (n, values, bytes, kept))
NONZERO(mark_nonzero_32_body, uint32_t, u32x16)
TIERS(size_t, mark_nonzero_32, (size_t n, const void *values, size_t bytes, uint8_t *kept), (n, values, bytes, kept))

#define NEGATIVE_ZEROS(name, element, stored, zero)                          \
  BODY size_t name(size_t n, const stored *restrict x) {                     \
    size_t count = 0;                                                        \
    for (size_t i = 0; i < n; i++) count += x[i] == (element)(zero);         \
    return count;                                                            \
  }
NEGATIVE_ZEROS(count_negative_zeros_16_body, uint16_t, stored_16, 0x8000)
TIERS(size_t, count_negative_zeros_16, (size_t n, const void *x), (n, x))
NEGATIVE_ZEROS(count_negative_zeros_32_body, uint32_t, stored_32, 0x80000000)
TIERS(size_t, count_negative_zeros_32, (size_t n, const void *x), (n, x))

#define TAKE(name, element, stored)                                                                     \
  size_t name(size_t n, size_t bytes, const uint8_t *kept, const void *values, size_t count, element *y) { \
    const stored *x = values;                                                                           \
    size_t taken = 0;                                                                                   \
    for (size_t i = 0; i < n && taken < count; i++) {                                                   \
      y[taken] = x[i];                                                                                  \
      taken += kept[i / 8] >> (i % 8) & 1;                                                              \
    }                                                                                                   \
    return taken;                                                                                       \
  }
TAKE(espalier_take_16, uint16_t, stored_16)
TAKE(espalier_take_32, uint32_t, stored_32)

int espalier_fits_two_of_four(size_t bytes, const uint8_t *kept) {
  unsigned over = 0;
  for (size_t i = 0; i < bytes; i++) {
    // Bits of each pair, then of each four: more than two of them.
    unsigned pairs = kept[i] - (kept[i] >> 1 & 0x55u);
    unsigned fours = (pairs & 0x33u) + (pairs >> 2 & 0x33u);
    over |= (fours + 0x55u) & 0x88u;
  }
  return over == 0;
}

void espalier_fill_two_of_four(size_t n, size_t bytes, uint8_t *kept) {
  for (size_t i = 0; i < n; i += 4) {
    unsigned shift = i % 8;
    unsigned four = kept[i / 8] >> shift & 15u;
    while (__builtin_popcount(four) < 2) four |= four + 1;
    kept[i / 8] |= (uint8_t)(four << shift);
  }
}
