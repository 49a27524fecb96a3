#ifndef ESPALIER_GRAM_H
#define ESPALIER_GRAM_H

#include "counted.h"

// ---- gram.c

/// A Gram matrix G, n x n and symmetric: all its elements, or a factor F of it, G = F^T F + diag(rest).
typedef struct {
  size_t n;
  /// n x n; null if there is a factor.
  const float *elements;
  /// Rows of the factor.
  size_t rank;
  /// rank x n.
  const float *factor;
  /// n, none negative: what the diagonal has beyond that of F^T F.
  const float *rest;
} espalier_gram __attribute__((swift_attr("@Sendable")));

/// Row i of G, of n: in place, or made from the factor in made[n].
const float *espalier_gram_row(const espalier_gram *gram, size_t i, float *made);
/// G_ij.
double espalier_gram_entry(const espalier_gram *gram, size_t i, size_t j);
/// Raises largest[i] and largest[j] to |G_ij| inverse[i] inverse[j] for the i of [start, start + count) and all j >= start but i
/// itself; rows[count x n] are the rows of G from `start` on.
void espalier_raise_correlations(size_t n, size_t start, size_t count, size_t n_rows, const float *COUNTED(n_rows) rows, const float *COUNTED(n) inverse,
                                 float *COUNTED(n) largest);
/// y[j] += factor G_ij, with space for a row that is made from the factor.
void espalier_add_gram_row(espalier_gram gram, size_t i, double factor, size_t n, float *COUNTED(n) made_row, double *COUNTED(n) y);
/// y[j] += factor x[j].
void espalier_add_scaled(size_t n, double factor, const float *COUNTED(n) x, double *COUNTED(n) y);

#endif
