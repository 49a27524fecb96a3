#ifndef ESPALIER_DSNOT_H
#define ESPALIER_DSNOT_H

#include "counted.h"

// ---- dsnot.c

/// What DSnoT did to one row: its expected error before and after.
typedef struct {
  uint64_t moves;
  double before, after;
} espalier_dsnot;

/// Moves of one row of a mask that bring its expected error, the sum over the pruned j of w_j means_j, closer to 0 (DSnoT, arXiv
/// 2310.08915, section 3.2), at most `limit`.
///
/// Each move restores the pruned weight of largest w_j means_j / variance_j in the direction of the error, and prunes the kept one of
/// least |w_j| sqrt(squares_j): among those whose mean contribution has the other sign, or, with span < n, of the same run of `span`. No
/// weight moves twice. The row ends if the error is at most `threshold` times the root of the sum over the pruned of w_j^2 squares_j, or
/// if a move would not lower it. Of equal weights the lower index is taken.
///
///   means, squares  of every input, and of its square
///   kept            mask of 0 and 1, in and out; with runs the same count in each
///   moved           scratch
espalier_dsnot espalier_dsnot_row(size_t n, size_t span, uint64_t limit, double threshold, const float *COUNTED(n) w,
                                  const double *COUNTED(n) means, const double *COUNTED(n) squares, uint8_t *COUNTED(n) kept,
                                  uint8_t *COUNTED(n) moved);

#endif
