// What the benchmarks compare the search for swaps with.
#ifndef ESPALIER_CBENCHMARKS_H
#define ESPALIER_CBENCHMARKS_H

#include "counted.h"

/// Best-improvement 1-swaps by computing the change of every pair (kept, pruned) in f32, at most `limit` swaps in each of `rows` rows.
/// The rows take their steps together, so that a part of G that is in the cache serves all of them. Returns the pairs.
///
///   n, gram        a multiple of 16; `squares` = n x n
///   w, kept, c     `values` = rows x n: weights, mask of 0 and 1, and gram * ((1 - kept) . w); the latter two in and out
///   scratch        espalier_full_scan_scratch(n, rows) bytes, aligned to 64
uint64_t espalier_full_scan(size_t n, size_t rows, uint64_t limit, size_t squares, const float *COUNTED(squares) gram, size_t values,
                            const float *COUNTED(values) w, uint8_t *COUNTED(values) kept, double *COUNTED(values) c, size_t bytes,
                            uint8_t *COUNTED(bytes) scratch);
size_t espalier_full_scan_scratch(size_t n, size_t rows);

#endif
