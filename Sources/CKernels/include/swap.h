#ifndef ESPALIER_SWAP_H
#define ESPALIER_SWAP_H

#include "counted.h"
#include "gram.h"

// ---- The searches for the best moves of the rows of a mask: what swap.c and swapgroups.c have in common.
//
// Both take one row, or two that take turns, so that the rows of G that one needs arrive while the other is searched. `values` is
// rows x n:
//
//   w, kept     weights, and mask of 0 and 1, in and out
//   c           G ((1 - kept) . w), with the shift of the row's target added, if it has one
//   starts      for each row, what its loss is beyond the sum of the pruned w c
//   held        the Gram matrix H of held-out inputs, on which a row's loss is followed: the row returns to the mask with the least;
//               its n is 0 if there are none
//   held_c      H ((1 - kept) . w), with the shift on held-out inputs added, or nothing
//   scratch     for each row as many bytes as the _scratch function says, a multiple of 64; aligned to 64

enum {
  /// Moves past the least loss on held-out inputs after which a row stops.
  ESPALIER_PATIENCE = 10,
  ESPALIER_LARGEST_GROUP = 32,
  /// The most patterns that a group may have if a move takes the best of all.
  ESPALIER_MOST_PATTERNS = 1000
};

/// What a search is told of a row whose target has a shift s: zeros if it has none.
typedef struct {
  /// The sum of s w over the pruned weights, on G and on H.
  double extra, held_extra;
  /// What the least gain of a move is a share of: the loss may be 0 or below. 0 if it is the loss itself.
  double scale;
} espalier_swap_start;

/// What a search did to a row.
typedef struct {
  /// The moves that led to its mask: swaps, or steps of whole groups.
  uint64_t moves;
  /// Moves whose change in loss was computed, and all that there were to choose from.
  uint64_t evaluated, choices;
  /// The loss of the row at first, and after the moves as they added up; the same on held-out inputs, 0 if there are none.
  double before, after, held_before, held_after;
  /// Whether it stopped at the limit, or ESPALIER_PATIENCE moves past the least loss on held-out inputs.
  uint32_t limited, stopped;
} espalier_swap_outcome;

// ---- swap.c

/// Best-improvement 1-swaps of each row until no swap lowers its loss or `limit` swaps were made (SparseSwaps, arXiv 2512.10922,
/// algorithm 1). A swap prunes a kept u and restores a pruned p of the same run of `span` weights; span divides n, and is n for rows.
/// Of swaps that are equally good the lower u goes first, then the lower p.
///
///   kept        the same count in each run
///   diagonal    of G
///   norms       square roots of the diagonal, none below a tiny positive number
///   largest     for each i not below the largest |G_ij| / (norms[i] norms[j]) over all j != i
void espalier_swap_search(espalier_gram gram, size_t n, const double *COUNTED(n) diagonal, const float *COUNTED(n) norms,
                          const float *COUNTED(n) largest, size_t span, uint64_t limit, size_t values,
                          const float *COUNTED(values) w, uint8_t *COUNTED(values) kept, const double *COUNTED(values) c,
                          espalier_gram held, size_t held_values, const double *COUNTED(held_values) held_c, size_t scratch_bytes,
                          uint8_t *COUNTED(scratch_bytes) scratch, size_t rows, const espalier_swap_start *COUNTED(rows) starts,
                          espalier_swap_outcome *COUNTED(rows) outcomes);
size_t espalier_swap_scratch(size_t n, size_t span, int has_held);

// ---- swapgroups.c

/// Best-improvement moves of each row within groups of `of` consecutive weights that keep `keep`, until no move lowers its loss or
/// `limit` moves were made. of <= ESPALIER_LARGEST_GROUP divides n, keep <= of. A move is a swap, or, if `whole` is not 0, the step
/// from the pattern of a group to any other of at most ESPALIER_MOST_PATTERNS. Of swaps that are equally good the lower u goes first,
/// then the lower p; of patterns the lower group, then the lower number whose bit i is set if weight i is kept.
///
///   blocks      `block_values` = n x of: G_jk of every weight j with the weights k of its group
void espalier_group_search(espalier_gram gram, uint32_t of, uint32_t keep, int whole, size_t block_values,
                           const float *COUNTED(block_values) blocks, uint64_t limit, size_t values, const float *COUNTED(values) w,
                           uint8_t *COUNTED(values) kept, const double *COUNTED(values) c, espalier_gram held, size_t held_values,
                           const double *COUNTED(held_values) held_c, size_t scratch_bytes, uint8_t *COUNTED(scratch_bytes) scratch,
                           size_t rows, const espalier_swap_start *COUNTED(rows) starts,
                           espalier_swap_outcome *COUNTED(rows) outcomes);
size_t espalier_group_scratch(size_t n, uint32_t of, uint32_t keep, int whole, int has_held);

#endif
