#ifndef ESPALIER_SWAP_H
#define ESPALIER_SWAP_H

#include <stddef.h>
#include <stdint.h>

// ---- swap.c

/// d[i] = w[i] where kept[i] is 0, else 0.
void espalier_pruned_part(size_t n, const float *w, const uint8_t *kept, float *d);
/// Sum of w[i] c[i] over the pruned i: the loss of the row.
double espalier_row_loss(size_t n, const float *w, const uint8_t *kept, const double *c);

/// What a search for swaps did.
typedef struct {
  uint64_t swaps;
  /// Pairs (kept, pruned) whose change in loss was computed.
  uint64_t evaluated;
  /// All pairs that the searches had to choose from.
  uint64_t pairs;
} espalier_swap_counts;

/// Best-improvement 1-swaps of one row, until no swap lowers the loss or `limit` swaps were made (SparseSwaps,
/// arXiv 2512.10922). A swap prunes a kept u and restores a pruned p of the same run of `span` weights (span = n: the row). How the
/// best pair is found without looking at all of them stands in swap.c.
///
///   n         weights of the row
///   gram      n x n, distance of rows `ld`
///   norms[n]  square roots of the diagonal, none below a tiny positive number
///   reach[n]  espalier_reach_of of every channel
///   w[n]      weights
///   kept[n]   mask of 0 and 1, in and out; with groups the same count in each
///   c[n]      gram * ((1 - kept) . w), in and out
///   scratch   10 n floats
espalier_swap_counts espalier_swap_row(size_t n, size_t span, uint64_t limit, size_t ld, const float *gram, const float *norms,
                                       const float *reach, const float *w, uint8_t *kept, double *c, float *scratch);
/// An upper bound of |G_ij| / (norms[i] norms[j]) over all j != i; g[n] is row i of G.
float espalier_reach_of(size_t n, size_t i, const float *g, const float *norms);

#endif
