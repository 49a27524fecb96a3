#ifndef ESPALIER_ROWLOSS_H
#define ESPALIER_ROWLOSS_H

#include "counted.h"

// ---- rowloss.c: the loss of one row, and what a single weight contributes to it

/// d[i] = w[i] where kept[i] is 0, else 0.
void espalier_pruned_part(size_t n, const float *COUNTED(n) w, const uint8_t *COUNTED(n) kept, float *COUNTED(n) d);
/// Sum of w[i] c[i] over the pruned i, with c = G ((1 - kept) . w): the loss of the row.
double espalier_row_loss(size_t n, const float *w, const uint8_t *kept, const double *c);

/// The cheapest kept weight u to prune and the cheapest pruned weight p to restore, each on its own: the change of the loss, infinite
/// if there is no such weight. Of equal ones the lower index.
typedef struct {
  double prune, restore;
  uint32_t u, p;
} espalier_row_ends;

/// diagonal[n] of G, w[n], kept[n] of 0 and 1, c[n] = G ((1 - kept) . w).
espalier_row_ends espalier_find_row_ends(size_t n, const double *COUNTED(n) diagonal, const float *COUNTED(n) w,
                                         const uint8_t *COUNTED(n) kept, const double *COUNTED(n) c);

#endif
