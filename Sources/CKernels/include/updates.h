#ifndef ESPALIER_UPDATES_H
#define ESPALIER_UPDATES_H

#include "counted.h"

// ---- updates.c: weights that are fitted to a mask.

/// Sum of x[i] y[i] in f64.
double espalier_dot(size_t n, const float *COUNTED(n) x, const float *COUNTED(n) y);

/// The system (G + damping) x = r of one row, restricted to the channels that are kept and have an inverse, in their order. Writes these
/// channels, the lower triangle of the matrix (column-major: the first index runs faster) and r; returns how many channels there are, at
/// most `most`.
size_t espalier_fit_gather(size_t n, const uint8_t *COUNTED(n) kept, const float *COUNTED(n) inverse, const float *COUNTED(n) damping,
                           size_t elements, const float *COUNTED(elements) gram, const float *COUNTED(n) r, size_t most,
                           uint32_t *COUNTED(most) channels, size_t squares, double *COUNTED(squares) matrix,
                           double *COUNTED(most) side);

/// Begins conjugate gradients for one row: x = 0 and p = inverse . r, with r set to 0 where nothing is kept.
///
/// r[n] = G ((1 - kept) . w) at first, and inverse[n] the inverse of the diagonal of G + damping, 0 where there is none. Returns the
/// sum of r p.
double espalier_fit_begin(size_t n, const uint8_t *COUNTED(n) kept, const float *COUNTED(n) inverse, float *COUNTED(n) x,
                          float *COUNTED(n) r, float *COUNTED(n) p);

/// What is left of a row after a step.
typedef struct {
  /// Sum of inverse . r^2; 0 ends the row.
  double left;
  /// By how much the step lowered x^T (G + damping) x - 2 c^T x.
  double gain;
} espalier_fit;

/// One step of conjugate gradients for one row, with q = G p; `left` is that of the last step. p, x and r are in and out.
espalier_fit espalier_fit_step(size_t n, double left, const uint8_t *COUNTED(n) kept, const float *COUNTED(n) damping,
                               const float *COUNTED(n) inverse, const float *COUNTED(n) q, float *COUNTED(n) p, float *COUNTED(n) x,
                               float *COUNTED(n) r);

/// w[i] += x[i] where kept, else w[i] = 0; returns the sum of damping . x^2.
double espalier_fit_end(size_t n, const uint8_t *COUNTED(n) kept, const float *COUNTED(n) damping, const float *COUNTED(n) x,
                        float *COUNTED(n) w);

/// Prunes `n` consecutive weights of one row, column by column, and lets the weights to the right make up for it (SparseGPT,
/// arXiv 2301.00774, algorithm 1).
///
///   factor   from the diagonal of the upper Cholesky factor of the inverse Hessian on, rows `ld` apart
///   group    N:M: at every column whose index is a multiple of `group`, `prune` weights of its group are chosen; 0: `kept` is final
///   w        weights, in and out; what is pruned becomes 0
///   kept     mask of 0 and 1; in, or out with groups
///   errors   each pruned weight over the factor's diagonal; 0 where kept
void espalier_obs_row(size_t n, size_t ld, size_t elements, const float *COUNTED(elements) factor, size_t group, size_t prune,
                      float *COUNTED(n) w, uint8_t *COUNTED(n) kept, float *COUNTED(n) errors);

/// scores[i] = (w[i] / factor[i (ld + 1)])^2: what pruning each weight alone would cost.
void espalier_obs_scores(size_t n, size_t ld, size_t elements, const float *COUNTED(elements) factor, const float *COUNTED(n) w,
                         float *COUNTED(n) scores);

/// The right side of a row's step of ADMM: t = rho (D - U - w), with the sparse copy D = y where kept, and the scaled dual U = shrink y
/// elsewhere.
void espalier_admm_side(size_t n, float rho, float shrink, const uint8_t *COUNTED(n) kept, const float *COUNTED(n) w,
                        const float *COUNTED(n) y, float *COUNTED(n) t);
/// z[i] /= values[i] + rho.
void espalier_admm_divide(size_t n, float rho, const float *COUNTED(n) values, float *COUNTED(n) z);
/// x += w, the dense copy; y = x + U; magnitudes = |y|.
void espalier_admm_next(size_t n, float shrink, const uint8_t *COUNTED(n) kept, const float *COUNTED(n) w, float *COUNTED(n) x,
                        float *COUNTED(n) y, float *COUNTED(n) magnitudes);
/// |x - D|^2 over |D|^2, how far the two copies are apart; 0 if D is 0.
double espalier_admm_gap(size_t n, const uint8_t *COUNTED(n) kept, const float *COUNTED(n) x, const float *COUNTED(n) y);

#endif
