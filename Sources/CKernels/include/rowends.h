#ifndef ESPALIER_ROWENDS_H
#define ESPALIER_ROWENDS_H

#include <stddef.h>
#include <stdint.h>

// ---- rowends.c

/// The cheapest kept weight u to prune and the cheapest pruned weight p to restore, each on its own: what the loss of the row
/// changes by, infinite where there is none. Of equals the lower index.
typedef struct {
  double prune, restore;
  uint32_t u, p;
} espalier_row_ends;

/// diagonal[n] of G, w[n], kept[n] of 0 and 1, c[n] = G ((1 - kept) . w).
espalier_row_ends espalier_find_row_ends(size_t n, const double *diagonal, const float *w, const uint8_t *kept, const double *c);

#endif
