// What the two searches for moves, swap.c and swapgroups.c, have in common.
#ifndef ESPALIER_SEARCH_H
#define ESPALIER_SEARCH_H

#include "lanes.h"

#include <math.h>

// A few units of rounding of f32: more than any term of a bound goes through.
static const float ROUNDING = 1e-6f;
// If the best move gains less than this share of the loss of a row, the rounding of its correlations decides, and moves could go round
// in circles.
static const double LEAST_GAIN = 1e-9;

// f32 not below `value`.
BODY float upper(double value) {
  float rounded = (float)value;
  return rounded + fabsf(rounded) * 2e-7f + 1e-45f;
}

BODY size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

// What a search is given.
typedef struct {
  // `held` is null if there are no held-out inputs.
  const espalier_gram *gram, *held;
  uint64_t limit;
  size_t count;
  // Of row r from r * n on.
  const float *w;
  uint8_t *kept;
  const double *c, *held_c;
  uint8_t *scratch;
  const espalier_swap_start *starts;
  espalier_swap_outcome *outcomes;
} given_rows;

// ---- heldout.c

// The loss of a row on held-out inputs, followed move by move while its mask is refined on others.
typedef struct {
  // The Gram matrix H of the held-out inputs; null if there are none, and then all of this does nothing.
  const espalier_gram *gram;
  // H ((1 - kept) . w), and space for a row of H.
  double *c;
  float *made_row;
  // The loss on H now and the smallest so far, the loss on G at that point, and the moves before it.
  double now, least, own_at_least;
  uint64_t moves, moves_at_least;
  // What the moves after the smallest loss flipped.
  size_t flips;
  uint32_t flipped[ESPALIER_PATIENCE * ESPALIER_LARGEST_GROUP];
} held_out;

size_t espalier_held_out_scratch(size_t n);
// Begins with the mask `kept`, whose loss on G is `own_loss`; c[n] is H ((1 - kept) . w) and the shift, if there is one, and `extra` the
// sum of the shift times w over the pruned weights.
void espalier_held_out_begin(held_out *held, const espalier_gram *gram, const double *c, const float *w, const uint8_t *kept,
                             double extra, double own_loss, uint8_t *scratch);
// A move was made: `count` weights, each once, were pruned or restored, and `kept` is already the new mask. Adds what that changes on H,
// exactly. Returns 0 if the row must stop: the smallest loss is ESPALIER_PATIENCE moves back.
int espalier_held_out_move(held_out *held, const float *w, const uint8_t *kept, size_t count, const uint32_t *flipped, double own_loss);
// Takes back the moves after the smallest loss, in the mask and in the outcome.
void espalier_held_out_end(held_out *held, uint8_t *kept, espalier_swap_outcome *outcome);

#endif
