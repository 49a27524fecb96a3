// Vectors of a fixed number of lanes, whatever the registers of the processor are, and the few functions that they need beyond
// operators. Comparisons give lanes of -1 (true) and 0, `which ? x : y` selects by them, and a number next to a vector stands for all
// lanes. A vector may lie at any address that suits its elements.
#ifndef ESPALIER_LANES_H
#define ESPALIER_LANES_H

#include "tiers.h"

#include <string.h>

// Every function that takes or returns vectors is inlined: no calling convention is involved.
#pragma clang diagnostic ignored "-Wpsabi"

typedef float f32x4 __attribute__((ext_vector_type(4), aligned(sizeof(float))));
typedef float f32x8 __attribute__((ext_vector_type(8), aligned(sizeof(float))));
typedef float f32x16 __attribute__((ext_vector_type(16), aligned(sizeof(float))));
typedef double f64x4 __attribute__((ext_vector_type(4), aligned(sizeof(double))));
typedef double f64x8 __attribute__((ext_vector_type(8), aligned(sizeof(double))));
typedef double f64x16 __attribute__((ext_vector_type(16), aligned(sizeof(double))));
typedef int32_t i32x8 __attribute__((ext_vector_type(8), aligned(sizeof(int32_t))));
typedef int32_t i32x16 __attribute__((ext_vector_type(16), aligned(sizeof(int32_t))));
typedef int64_t i64x8 __attribute__((ext_vector_type(8), aligned(sizeof(int64_t))));
typedef uint8_t u8x8 __attribute__((ext_vector_type(8), aligned(sizeof(uint8_t))));
typedef uint8_t u8x16 __attribute__((ext_vector_type(16), aligned(sizeof(uint8_t))));
// Elements of a file, which may lie at any address.
typedef uint16_t u16x16 __attribute__((ext_vector_type(16), aligned(1), may_alias));
typedef uint32_t u32x16 __attribute__((ext_vector_type(16), aligned(1), may_alias));
typedef _Bool boolx16 __attribute__((ext_vector_type(16)));

BODY f32x4 load4(const float *x) { return *(const f32x4 *)x; }
BODY f32x8 load8(const float *x) { return *(const f32x8 *)x; }
BODY f32x16 load16(const float *x) { return *(const f32x16 *)x; }
BODY f64x8 load_f64x8(const double *x) { return *(const f64x8 *)x; }
// The first `count` lanes from memory, the others 0.
BODY f32x16 load_up_to16(size_t count, const float *x) {
  if (count >= 16) return load16(x);
  f32x16 some = 0;
  memcpy(&some, x, count * sizeof *x);
  return some;
}

BODY void store8(float *x, f32x8 values) { *(f32x8 *)x = values; }
BODY void store16(float *x, f32x16 values) { *(f32x16 *)x = values; }
BODY void store_f64x8(double *x, f64x8 values) { *(f64x8 *)x = values; }

BODY f32x8 all8(float x) { return (f32x8)(x); }
BODY f32x16 all16(float x) { return (f32x16)(x); }

// One instruction, unlike a minimum that respects NaN.
BODY f32x8 lesser8(f32x8 x, f32x8 y) { return x < y ? x : y; }
BODY f32x16 lesser16(f32x16 x, f32x16 y) { return x < y ? x : y; }

// x in the lanes that `which` sets, 0 in the others.
BODY f32x16 only16(i32x16 which, f32x16 x) { return (f32x16)(which & (i32x16)x); }

BODY i32x16 counting16(void) { return (i32x16){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
// True in the first `count` lanes.
BODY i32x16 first16(size_t count) { return counting16() < (int32_t)(count < 16 ? count : 16); }

// A bit for each lane, the least significant first, and back.
BODY uint64_t bits_of16(i32x16 which) {
  boolx16 packed = __builtin_convertvector(which, boolx16);
  uint16_t bits;
  memcpy(&bits, &packed, sizeof bits);
  return bits;
}
BODY i32x16 lanes_of16(uint64_t bits) {
  uint16_t sixteen = (uint16_t)bits;
  boolx16 packed;
  memcpy(&packed, &sixteen, sizeof packed);
  return -__builtin_convertvector(packed, i32x16);
}

// True for the bytes of a mask, 0 or 1, that are 1.
BODY i32x16 kept16(const uint8_t *kept) { return __builtin_convertvector(*(const u8x16 *)kept != 0, i32x16); }
BODY i64x8 kept8(const uint8_t *kept) { return __builtin_convertvector(*(const u8x8 *)kept != 0, i64x8); }

BODY f64x4 widen4(f32x4 x) { return __builtin_convertvector(x, f64x4); }
BODY f64x8 widen8(f32x8 x) { return __builtin_convertvector(x, f64x8); }
BODY f64x16 widen16(f32x16 x) { return __builtin_convertvector(x, f64x16); }
BODY f32x8 narrow8(f64x4 low, f64x4 high) {
  return __builtin_shufflevector(__builtin_convertvector(low, f32x4), __builtin_convertvector(high, f32x4), 0, 1, 2, 3, 4, 5, 6, 7);
}
BODY f32x16 narrow16(f64x8 low, f64x8 high) {
  return __builtin_shufflevector(__builtin_convertvector(low, f32x8), __builtin_convertvector(high, f32x8), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
                                 10, 11, 12, 13, 14, 15);
}

// Sums of f32 in f64: lanes k and k + 8 added up, and then all eight.
BODY f64x8 folded(f32x16 x) { return widen8(x.lo) + widen8(x.hi); }
BODY double total8(f64x8 x) { return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7])); }

// The largest lane; of a vector without NaN.
BODY float largest16(f32x16 x) {
  float largest = x[0];
  for (int k = 1; k < 16; k++) largest = x[k] > largest ? x[k] : largest;
  return largest;
}

// The f32 of these bits, and back: those of positive numbers order like the numbers.
BODY float f32_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
BODY uint32_t bits_of_f32(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

#endif
