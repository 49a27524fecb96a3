#ifndef ESPALIER_FULLSCAN_H
#define ESPALIER_FULLSCAN_H

#include "swap.h"

#include <stddef.h>
#include <stdint.h>

// ---- fullscan.c: what the benchmarks compare the search for swaps with.

/// Best-improvement 1-swaps by computing the change of every pair (kept, pruned) in f32, `limit` swaps in each of `rows` rows at most.
/// The rows take their steps together, so that a part of G that is in the cache serves all of them.
///
///   n, gram        a multiple of 16; n x n
///   w, kept, c     rows x n: weights, mask of 0 and 1, and gram * ((1 - kept) . w), the latter two in and out
///   scratch        espalier_full_scan_scratch(n, rows) bytes, aligned to 64
espalier_swap_outcome espalier_full_scan(size_t n, size_t rows, uint64_t limit, const float *gram, const float *w, uint8_t *kept,
                                         double *c, void *scratch);
size_t espalier_full_scan_scratch(size_t n, size_t rows);

#endif
