#ifndef ESPALIER_SWAPGROUPS_H
#define ESPALIER_SWAPGROUPS_H

#include "gram.h"
#include "swap.h"

#include <stddef.h>
#include <stdint.h>

// ---- swapgroups.c: swaps and moves within small groups (N:M).

enum {
  ESPALIER_LARGEST_GROUP = 32,
  /// The most patterns that a group may have where a move takes the best of all.
  ESPALIER_MOST_PATTERNS = 1000
};

/// What a move may do within a group of `of` consecutive weights, `keep` of which are kept.
typedef struct espalier_group_plan espalier_group_plan;

size_t espalier_group_plan_bytes(void);
/// Fills in `plan`, of espalier_group_plan_bytes. With `whole` 0 a move is a swap, otherwise the step from the pattern of a group
/// to any other; there may be ESPALIER_MOST_PATTERNS of them. of <= ESPALIER_LARGEST_GROUP, keep <= of.
void espalier_plan_groups(uint32_t of, uint32_t keep, int whole, espalier_group_plan *plan);

/// Bytes of scratch for one row of n weights; a multiple of 64.
size_t espalier_group_scratch(size_t n, const espalier_group_plan *plan);

/// Best-improvement moves of `count` rows, 1 or 2, each until no move lowers its loss or `limit` were made (SparseSwaps, arXiv
/// 2512.10922). Of swaps that are equally good the lower u goes first, then the lower p; of patterns the lower group, then the
/// lower number whose bit i is set where weight i is kept. Two rows take turns, so that the rows of G that one needs arrive
/// while the other is searched.
///
///   blocks    n x of: G_jk of every weight j with the weights k of its group
///   rows      what to do
///   scratch   espalier_group_scratch for each row, aligned to 64 bytes
void espalier_refine_groups(const espalier_gram *gram, const espalier_group_plan *plan, const float *blocks, uint64_t limit,
                            size_t count, espalier_swap_row *rows, void *scratch);

#endif
