#include "lanes.h"

BODY void bf16_to_f32_body(size_t n, const stored_16 *restrict x, float *restrict y) {
  for (size_t i = 0; i < n; i++) y[i] = f32_of_bits((uint32_t)x[i] << 16);
}
TIERS(void, bf16_to_f32, (size_t n, const void *x, float *y), (n, x, y))

BODY void f32_to_bf16_body(size_t n, const float *restrict x, uint16_t *restrict y) {
  for (size_t i = 0; i < n; i++) {
    uint32_t bits = bits_of_f32(x[i]);
    uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    uint32_t nan = (bits >> 16) | 0x40;
    y[i] = (uint16_t)((bits & 0x7FFFFFFF) > 0x7F800000 ? nan : rounded);
  }
}
TIERS(void, f32_to_bf16, (size_t n, const float *x, uint16_t *y), (n, x, y))

// The exponent of f16 is moved to that of f32 by a multiplication, which also normalizes the subnormals.
BODY void f16_to_f32_body(size_t n, const stored_16 *restrict x, float *restrict y) {
  for (size_t i = 0; i < n; i++) {
    uint32_t magnitude = (uint32_t)(x[i] & 0x7FFF) << 13;
    uint32_t scaled = bits_of_f32(f32_of_bits(magnitude) * 0x1p112f);
    uint32_t special = magnitude | 0x7F800000;
    y[i] = f32_of_bits((magnitude >= 0x0F800000 ? special : scaled) | (uint32_t)(x[i] & 0x8000) << 16);
  }
}
TIERS(void, f16_to_f32, (size_t n, const void *x, float *y), (n, x, y))

static uint16_t f16_of(float value) {
  uint32_t bits = bits_of_f32(value);
  uint32_t sign = bits >> 16 & 0x8000;
  uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return (uint16_t)(sign | 0x7E00);
  if (magnitude >= 0x477FF000) return (uint16_t)(sign | 0x7C00);
  if (magnitude < 0x38800000) {
    // A subnormal of f16: adding 0.5 lines its last bit up with the last bit of f32, rounding to even on the way.
    return (uint16_t)(sign | (bits_of_f32(f32_of_bits(magnitude) + 0.5f) - 0x3F000000));
  }
  uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);
  return (uint16_t)(sign | ((rounded - 0x38000000) >> 13));
}

void espalier_f32_to_f16(size_t n, const float *x, uint16_t *y) {
  for (size_t i = 0; i < n; i++) y[i] = f16_of(x[i]);
}

BODY size_t first_not_finite_f32_body(size_t n, const stored_float *x) {
  size_t i = 0;
  for (; i + 64 <= n; i += 64) {
    uint32_t found = 0;
    for (size_t j = 0; j < 64; j++) found |= (bits_of_f32(x[i + j]) & 0x7F800000) == 0x7F800000;
    if (found) break;
  }
  for (; i < n; i++)
    if ((bits_of_f32(x[i]) & 0x7F800000) == 0x7F800000) return i;
  return n;
}
TIERS(size_t, first_not_finite_f32, (size_t n, const void *x), (n, x))

// Sixteen elements at a time, of which each lane looks at its own bit.
#define MASK(name, element, lanes)                                                             \
  BODY void name(size_t n, size_t bytes, const uint8_t *restrict kept, void *restrict values) { \
    lanes bit;                                                                                 \
    for (int lane = 0; lane < 16; lane++) bit[lane] = (element)(1u << lane);                   \
    char *x = values;                                                                          \
    size_t i = 0;                                                                              \
    for (; i + 16 <= n; i += 16) {                                                             \
      lanes bits = (element)(kept[i / 8] | kept[i / 8 + 1] << 8);                              \
      *(lanes *)(x + i * sizeof(element)) &= (lanes)((bits & bit) != 0);                       \
    }                                                                                          \
    for (; i < n; i++)                                                                         \
      if (!(kept[i >> 3] >> (i & 7) & 1)) memset(x + i * sizeof(element), 0, sizeof(element)); \
  }
MASK(mask_f32_body, uint32_t, u32x16)
TIERS(void, mask_f32, (size_t n, size_t bytes, const uint8_t *kept, float *x), (n, bytes, kept, x))
MASK(mask_16_body, uint16_t, u16x16)
TIERS(void, mask_16, (size_t n, size_t bytes, const uint8_t *kept, uint16_t *x), (n, bytes, kept, x))

BODY void f32_to_f64_body(size_t n, const float *restrict x, double *restrict y) {
  for (size_t i = 0; i < n; i++) y[i] = x[i];
}
TIERS(void, f32_to_f64, (size_t n, const float *x, double *y), (n, x, y))
