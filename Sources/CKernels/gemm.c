#include "lanes.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_neon.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

enum { PANEL = ESPALIER_GEMM_PANEL, RUN = ESPALIER_GEMM_RUN, HALF = PANEL / 2 };

int espalier_has_bf16(void) {
#if defined(__x86_64__)
  return espalier_isa() == 2 && __builtin_cpu_supports("avx512bf16");
#elif defined(__aarch64__) && defined(__linux__)
  return (getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0;
#else
  return 0;
#endif
}

// ---- Packing

// A 16 x 16 block is transposed in four rounds, each exchanging halves of a smaller size.
BODY void transpose_words(u32x16 *m) {
  for (int half = 8; half >= 1; half /= 2) {
    for (int i = 0; i < 16; i++) {
      if (i & half) continue;
      u32x16 x = m[i], y = m[i + half];
      switch (half) {
      case 8:
        m[i] = __builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
        m[i + half] = __builtin_shufflevector(x, y, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
        break;
      case 4:
        m[i] = __builtin_shufflevector(x, y, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
        m[i + half] = __builtin_shufflevector(x, y, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
        break;
      case 2:
        m[i] = __builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
        m[i + half] = __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
        break;
      default:
        m[i] = __builtin_shufflevector(x, y, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
        m[i + half] = __builtin_shufflevector(x, y, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
      }
    }
  }
}

BODY void pack_rows_body(size_t rows, size_t steps, size_t ld, const stored_32 *restrict x, size_t n, uint32_t *restrict panel) {
  size_t step = 0;
  for (; step + PANEL <= steps && rows == PANEL; step += PANEL) {
    u32x16 block[PANEL];
    for (size_t row = 0; row < PANEL; row++) block[row] = *(const u32x16 *)(x + row * ld + step);
    transpose_words(block);
    for (size_t i = 0; i < PANEL; i++) *(u32x16 *)(panel + (step + i) * PANEL) = block[i];
  }
  for (; step < steps; step++)
    for (size_t row = 0; row < PANEL; row++) panel[step * PANEL + row] = row < rows ? x[row * ld + step] : 0;
}
TIERS(void, pack_rows, (size_t rows, size_t steps, size_t ld, const void *x, size_t n, uint32_t *panel),
      (rows, steps, ld, x, n, panel))

BODY void pack_columns_f32_body(size_t count, size_t k, size_t ld, size_t x_count, const float *restrict x, size_t n,
                                uint32_t *restrict panel) {
  for (size_t i = 0; i < k; i++) {
    if (count == PANEL) {
      memcpy(panel + i * PANEL, x + i * ld, PANEL * 4);
    } else {
      memset(panel + i * PANEL, 0, PANEL * 4);
      memcpy(panel + i * PANEL, x + i * ld, count * 4);
    }
  }
}
TIERS(void, pack_columns_f32,
      (size_t count, size_t k, size_t ld, size_t x_count, const float *x, size_t n, uint32_t *panel),
      (count, k, ld, x_count, x, n, panel))

BODY uint32_t rounded(uint32_t bits) {
  uint32_t nan = (bits >> 16) | 0x40;
  return (bits & 0x7FFFFFFF) > 0x7F800000 ? nan : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

BODY void pack_columns_bf16_body(size_t count, size_t k, size_t ld, size_t x_count, const float *restrict x, size_t n,
                                uint32_t *restrict panel) {
  for (size_t i = 0; i < k; i += 2) {
    uint32_t even[PANEL] = {0}, odd[PANEL] = {0};
    uint32_t *step = panel + i / 2 * PANEL;
    if (count == PANEL) {
      memcpy(even, x + i * ld, PANEL * 4);
      if (i + 1 < k) memcpy(odd, x + (i + 1) * ld, PANEL * 4);
    } else {
      memcpy(even, x + i * ld, count * 4);
      if (i + 1 < k) memcpy(odd, x + (i + 1) * ld, count * 4);
    }
    for (size_t j = 0; j < PANEL; j++) step[j] = rounded(even[j]) | rounded(odd[j]) << 16;
  }
}
TIERS(void, pack_columns_bf16,
      (size_t count, size_t k, size_t ld, size_t x_count, const float *x, size_t n, uint32_t *panel),
      (count, k, ld, x_count, x, n, panel))

BODY void round_bf16_body(size_t n, float *restrict x, uint16_t *restrict y) {
  for (size_t i = 0; i < n; i++) {
    uint32_t high = rounded(bits_of_f32(x[i]));
    y[i] = (uint16_t)high;
    x[i] = f32_of_bits(high << 16);
  }
}
TIERS(void, round_bf16, (size_t n, float *x, uint16_t *y), (n, x, y))

BODY void scale_to_bf16_body(size_t n, float factor, const float *restrict x, uint16_t *restrict y) {
  for (size_t i = 0; i < n; i++) y[i] = (uint16_t)rounded(bits_of_f32(factor * x[i]));
}
TIERS(void, scale_to_bf16, (size_t n, float factor, const float *x, uint16_t *y), (n, factor, x, y))

// ---- Tiles

// Adds a tile of 16-column vectors to C, or stores it.
BODY void store_tile(size_t rows, size_t columns, const f32x16 *sums, size_t panels, int add, float *c, size_t ldc) {
  for (size_t i = 0; i < rows; i++) {
    for (size_t j = 0; j < panels; j++) {
      float *target = c + i * ldc + j * PANEL;
      f32x16 value = sums[i * panels + j];
      if (columns >= (j + 1) * PANEL) {
        store16(target, add ? load16(target) + value : value);
      } else {
        float values[PANEL];
        memcpy(values, &value, sizeof values);
        for (size_t l = 0; l < columns - j * PANEL; l++) target[l] = add ? target[l] + values[l] : values[l];
      }
    }
  }
}

// rows_at_once x (panels * 16) of C; both are constants when it is inlined.
BODY void tile_f32(size_t rows_at_once, size_t panels, size_t rows, size_t columns, size_t steps, const uint32_t *a,
                   const uint32_t *b, size_t b_stride, int add, float *c, size_t ldc) {
  f32x16 sums[HALF * 3];
#pragma clang loop unroll(full)
  for (size_t i = 0; i < rows_at_once * panels; i++) sums[i] = 0;
  const float *x = (const float *)a;
  const float *y = (const float *)b;
  for (size_t step = 0; step < steps; step++) {
    f32x16 columns_here[3];
#pragma clang loop unroll(full)
    for (size_t j = 0; j < panels; j++) columns_here[j] = load16(y + j * b_stride + step * PANEL);
#pragma clang loop unroll(full)
    for (size_t i = 0; i < rows_at_once; i++) {
#pragma clang loop unroll(full)
      for (size_t j = 0; j < panels; j++) sums[i * panels + j] += columns_here[j] * x[step * PANEL + i];
    }
  }
  store_tile(rows, columns, sums, panels, add, c, ldc);
}

#define SMALLER(x, y) ((x) < (y) ? (x) : (y))

// One run of steps over all tiles: `tile` for 3, 2 and 1 panels of B at a time.
#define RUN_OF_TILES(tile, height, widest)                                                                        \
  for (size_t column = 0; column < columns;) {                                                                    \
    size_t left = (columns - column + PANEL - 1) / PANEL;                                                         \
    size_t panels = left == 4 ? SMALLER(2, (widest)) : SMALLER(left, (size_t)(widest));                           \
    size_t width = SMALLER(columns - column, panels * PANEL);                                                     \
    const uint32_t *right = b + column / PANEL * b_stride + start * PANEL;                                        \
    for (size_t row = 0; row < rows; row += (height)) {                                                           \
      if ((ptrdiff_t)(column + width) <= (ptrdiff_t)row + first_column && first_column != PTRDIFF_MIN) break;      \
      const uint32_t *left_rows = a + row / PANEL * a_stride + start * PANEL + row % PANEL;                       \
      size_t count = SMALLER(rows - row, (size_t)(height));                                                       \
      float *target = c + row * ldc + column;                                                                     \
      if (panels == 3)                                                                                            \
        tile(height, 3, count, width, steps_here, left_rows, right, b_stride, adding, target, ldc);               \
      else if (panels == 2)                                                                                       \
        tile(height, 2, count, width, steps_here, left_rows, right, b_stride, adding, target, ldc);               \
      else                                                                                                        \
        tile(height, 1, count, width, steps_here, left_rows, right, b_stride, adding, target, ldc);               \
    }                                                                                                             \
    column += panels * PANEL;                                                                                     \
  }

#define RUNS(tile, height, widest)                                  \
  for (size_t start = 0; start < steps; start += RUN) {             \
    size_t steps_here = SMALLER(steps - start, (size_t)RUN);        \
    int adding = add || start > 0;                                  \
    RUN_OF_TILES(tile, height, widest)                              \
  }

#define PARAMETERS                                                                                                  \
  (size_t rows, size_t columns, size_t steps, size_t a_count, const uint32_t *a, size_t a_stride, size_t b_count,  \
   const uint32_t *b, size_t b_stride, ptrdiff_t first_column, int add, size_t c_count, float *c, size_t ldc)
#define ARGUMENTS (rows, columns, steps, a_count, a, a_stride, b_count, b, b_stride, first_column, add, c_count, c, ldc)

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))) static void gemm_f32_avx512 PARAMETERS {
  RUNS(tile_f32, 8, 3)
}
// 16 registers of 8 lanes hold a tile of 4 x 16.
__attribute__((target("avx2,fma,f16c"))) static void gemm_f32_avx2 PARAMETERS { RUNS(tile_f32, 4, 1) }
#endif
static void gemm_f32_plain PARAMETERS { RUNS(tile_f32, 4, 1) }

void espalier_gemm_f32 PARAMETERS {
#if defined(__x86_64__)
  int tier = espalier_isa();
  if (tier == 2) return gemm_f32_avx512 ARGUMENTS;
  if (tier == 1) return gemm_f32_avx2 ARGUMENTS;
#endif
  gemm_f32_plain ARGUMENTS;
}

#if defined(__x86_64__)
#define BF16_TARGET target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")

__attribute__((BF16_TARGET, always_inline)) static inline void tile_bf16(
    size_t rows_at_once, size_t panels, size_t rows, size_t columns, size_t steps, const uint32_t *a, const uint32_t *b,
    size_t b_stride, int add, float *c, size_t ldc) {
  f32x16 sums[HALF * 3];
#pragma clang loop unroll(full)
  for (size_t i = 0; i < rows_at_once * panels; i++) sums[i] = 0;
  for (size_t step = 0; step < steps; step++) {
    __m512bh columns_here[3];
#pragma clang loop unroll(full)
    for (size_t j = 0; j < panels; j++) columns_here[j] = (__m512bh)_mm512_load_si512(b + j * b_stride + step * PANEL);
#pragma clang loop unroll(full)
    for (size_t i = 0; i < rows_at_once; i++) {
      __m512bh pair = (__m512bh)_mm512_set1_epi32((int)a[step * PANEL + i]);
#pragma clang loop unroll(full)
      for (size_t j = 0; j < panels; j++)
        sums[i * panels + j] = (f32x16)_mm512_dpbf16_ps((__m512)sums[i * panels + j], columns_here[j], pair);
    }
  }
  store_tile(rows, columns, sums, panels, add, c, ldc);
}

__attribute__((BF16_TARGET)) static void gemm_bf16 PARAMETERS { RUNS(tile_bf16, 8, 3) }
#elif defined(__aarch64__) && defined(__linux__)
#define BF16_TARGET target("bf16")

// 4 x 16 of C, in 16 of 32 registers; always one panel at a time.
__attribute__((BF16_TARGET, always_inline)) static inline void tile_bf16(
    size_t rows_at_once, size_t panels, size_t rows, size_t columns, size_t steps, const uint32_t *a, const uint32_t *b,
    size_t b_stride, int add, float *c, size_t ldc) {
  float32x4_t sums[4][4];
#pragma clang loop unroll(full)
  for (size_t i = 0; i < 16; i++) sums[i / 4][i % 4] = vdupq_n_f32(0);
  for (size_t step = 0; step < steps; step++) {
    bfloat16x8_t pairs = vreinterpretq_bf16_u32(vld1q_u32(a + step * PANEL));
#pragma clang loop unroll(full)
    for (size_t j = 0; j < 4; j++) {
      bfloat16x8_t columns_here = vreinterpretq_bf16_u32(vld1q_u32(b + step * PANEL + j * 4));
      sums[0][j] = vbfdotq_laneq_f32(sums[0][j], columns_here, pairs, 0);
      sums[1][j] = vbfdotq_laneq_f32(sums[1][j], columns_here, pairs, 1);
      sums[2][j] = vbfdotq_laneq_f32(sums[2][j], columns_here, pairs, 2);
      sums[3][j] = vbfdotq_laneq_f32(sums[3][j], columns_here, pairs, 3);
    }
  }
  f32x16 tile[4];
  memcpy(tile, sums, sizeof tile);
  store_tile(rows, columns, tile, panels, add, c, ldc);
}

__attribute__((BF16_TARGET)) static void gemm_bf16 PARAMETERS { RUNS(tile_bf16, 4, 1) }
#endif

void espalier_gemm_bf16 PARAMETERS {
#if defined(BF16_TARGET)
  if (espalier_has_bf16()) return gemm_bf16 ARGUMENTS;
#endif
  __builtin_trap();
}
