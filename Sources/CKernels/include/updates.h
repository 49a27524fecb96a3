#ifndef ESPALIER_UPDATES_H
#define ESPALIER_UPDATES_H

#include <stddef.h>
#include <stdint.h>

// ---- updates.c: weights that are fitted anew on a mask.

/// Sum of x[i] y[i] in f64.
double espalier_dot(size_t n, const float *COUNTED(n) x, const float *COUNTED(n) y);

/// The system of one row, (G + damping) x = r on what it keeps: of the channels that are kept and have an inverse, in their order,
/// their number is returned, and they themselves, the lower triangle (column-major: the first index runs faster) of the matrix, and r.
size_t espalier_fit_gather(size_t n, const uint8_t *kept, const float *inverse, const float *damping, const float *gram, const float *r,
                           uint32_t *channels, double *matrix, double *side);

/// Begins conjugate gradients for one row: x = 0 and p = inverse . r, with r set to 0 where nothing is kept.
///
/// r[n] = G ((1 - kept) . w) at first, and inverse[n] the inverse of the diagonal of G + damping, 0 where there is none. Returns the
/// sum of r p.
double espalier_fit_begin(size_t n, const uint8_t *kept, const float *inverse, float *x, float *r, float *p);

/// What is left of a row after a step.
typedef struct {
  /// Sum of inverse . r^2; 0 ends the row.
  double left;
  /// By how much the step lowered x^T (G + damping) x - 2 c^T x.
  double gain;
} espalier_fit;

/// One step of conjugate gradients for one row: q[n] = G p in, `left` as the last step returned it; p, x and r in and out.
espalier_fit espalier_fit_step(size_t n, double left, const uint8_t *kept, const float *damping, const float *inverse, const float *q,
                               float *p, float *x, float *r);

/// w[i] += x[i] where kept, else w[i] = 0; returns the sum of damping . x^2.
double espalier_fit_end(size_t n, const uint8_t *kept, const float *damping, const float *x, float *w);

/// Prunes `n` consecutive weights of one row, column by column, and lets the weights to the right make up for it (SparseGPT,
/// arXiv 2301.00774, algorithm 1).
///
///   factor     n x n, rows `ld` apart: the block on the diagonal of the upper Cholesky factor of the inverse Hessian
///   group      N:M: where a column of index 0 modulo `group` is reached, `prune` of its group are chosen; 0: `kept` is final
///   w[n]       weights, in and out; what is pruned becomes 0
///   kept[n]    mask of 0 and 1; in, or with groups out
///   errors[n]  what each pruned weight was, over the factor's diagonal; 0 where kept
void espalier_obs_row(size_t n, size_t ld, const float *factor, size_t group, size_t prune, float *w, uint8_t *kept, float *errors);

/// scores[i] = (w[i] / factor[i (ld + 1)])^2: what pruning each weight alone would cost.
void espalier_obs_scores(size_t n, size_t ld, const float *factor, const float *w, float *scores);

/// The right side of a row's step of ADMM: t = rho (D - U - w), with D = y where kept, and U = shrink y elsewhere: the sparse copy and
/// the scaled dual.
void espalier_admm_side(size_t n, float rho, float shrink, const uint8_t *kept, const float *w, const float *y, float *t);
/// z[i] /= values[i] + rho.
void espalier_admm_divide(size_t n, float rho, const float *values, float *z);
/// x += w, the dense copy; y = x + U; magnitudes = |y|.
void espalier_admm_next(size_t n, float shrink, const uint8_t *kept, const float *w, float *x, float *y, float *magnitudes);
/// |x - D|^2 over |D|^2, how far the two copies are apart; 0 where D is 0.
double espalier_admm_gap(size_t n, const uint8_t *kept, const float *x, const float *y);

#endif
