// Products of packed matrices. A panel holds 16 rows side by side: step after step, one cache line of 16 values of 32 bits, either
// f32 of one k or pairs of bf16 of two. Sums run over k in order, in runs of ESPALIER_GEMM_RUN steps whose results are added to C in
// f32: an element of C depends on nothing but its own row, its own column and that order.
#ifndef ESPALIER_GEMM_H
#define ESPALIER_GEMM_H

#include "counted.h"

#include <stddef.h>
#include <stdint.h>

enum { ESPALIER_GEMM_PANEL = 16, ESPALIER_GEMM_RUN = 128 };

/// Whether this processor, within the limit set, multiplies pairs of bf16 with sums in f32.
int espalier_has_bf16(void);

/// Packs rows x[rows][ld], at most 16, `steps` steps of 32 bits each, into one panel; missing rows are 0. x may come
/// from a file, at any address.
void espalier_pack_rows(size_t rows, size_t steps, size_t ld, const void *x, size_t n, uint32_t *COUNTED(n) panel);
/// Packs `count` (at most 16) columns of x[k][ld] into one panel of k steps; missing columns are 0.
void espalier_pack_columns_f32(size_t count, size_t k, size_t ld, size_t x_count, const float *COUNTED(x_count) x, size_t n,
                               uint32_t *COUNTED(n) panel);
/// The same in pairs of bf16, rounded to nearest even: (k + 1) / 2 steps.
void espalier_pack_columns_bf16(size_t count, size_t k, size_t ld, size_t x_count, const float *COUNTED(x_count) x, size_t n,
                                uint32_t *COUNTED(n) panel);
/// y = factor * x[n], rounded to bf16.
void espalier_scale_to_bf16(size_t n, float factor, const float *COUNTED(n) x, uint16_t *y);
/// Rounds x[n] to bf16 in place, and writes the bf16 to y.
void espalier_round_bf16(size_t n, float *COUNTED(n) x, uint16_t *y);

/// C[rows][columns] = or += A B^T over `steps` steps: A in panels of 16 rows, `a_stride` values apart, B in panels of 16 columns,
/// `b_stride` values apart. Tiles of C with nothing at columns >= row + first_column are left out: PTRDIFF_MIN for none.
void espalier_gemm_f32(size_t rows, size_t columns, size_t steps, size_t a_count, const uint32_t *COUNTED(a_count) a, size_t a_stride,
                       size_t b_count, const uint32_t *COUNTED(b_count) b, size_t b_stride, ptrdiff_t first_column, int add,
                       size_t c_count, float *COUNTED(c_count) c, size_t ldc);
/// The same from pairs of bf16; only if ``espalier_has_bf16``.
void espalier_gemm_bf16(size_t rows, size_t columns, size_t steps, size_t a_count, const uint32_t *COUNTED(a_count) a, size_t a_stride,
                        size_t b_count, const uint32_t *COUNTED(b_count) b, size_t b_stride, ptrdiff_t first_column, int add,
                        size_t c_count, float *COUNTED(c_count) c, size_t ldc);

#endif
