#ifndef ESPALIER_SWAP_H
#define ESPALIER_SWAP_H

#include "gram.h"

#include <stddef.h>
#include <stdint.h>

// ---- heldout.c

enum {
  /// Moves past the smallest loss on the held-out inputs after which a row stops.
  ESPALIER_PATIENCE = 10,
  /// The most weights that one move prunes or restores: 2 for a swap, a whole group for N:M.
  ESPALIER_MOST_FLIPS = 32
};

/// The loss of a row on held-out inputs, followed move by move while its mask is refined on others.
///
/// Set gram, c and room; begin; move after every move that was made; end.
typedef struct {
  /// The Gram matrix H of the held-out inputs.
  const espalier_gram *gram;
  /// c[n] = H ((1 - kept) . w), in and out.
  double *c;
  /// n floats, for rows that are made from a factor of H; null where H has none.
  float *room;
  /// The loss of the row on H: at first, now, and the smallest.
  double before, now, least;
  /// The caller's own loss where `least` was seen.
  double own_at_least;
  /// Moves made so far, and before `least` was seen.
  uint64_t moves, moves_at_least;
  /// What the moves past `least` pruned or restored.
  size_t flips;
  uint32_t flipped[ESPALIER_PATIENCE * ESPALIER_MOST_FLIPS];
} espalier_held_out;

/// The loss on H of the mask that is there; `own_loss` is the loss that the caller lowers.
void espalier_held_out_begin(espalier_held_out *held, const float *w, const uint8_t *kept, double own_loss);
/// A move was made: the weights flipped[count] (each once) were pruned or restored, and kept[n] is already the new mask. Adds what
/// that changes on H, exactly. 0 where the row must stop: `least` lies ESPALIER_PATIENCE moves back.
int espalier_held_out_move(espalier_held_out *held, const float *w, const uint8_t *kept, size_t count, const uint32_t *flipped,
                           double own_loss);
/// Takes back the moves past `least`; c is no longer that of the mask.
void espalier_held_out_end(espalier_held_out *held, uint8_t *kept);

// ---- swap.c

/// d[i] = w[i] where kept[i] is 0, else 0.
void espalier_pruned_part(size_t n, const float *w, const uint8_t *kept, float *d);
/// Sum of w[i] c[i] over the pruned i: the loss of the row.
double espalier_row_loss(size_t n, const float *w, const uint8_t *kept, const double *c);

/// What the search needs to know of a Gram matrix, for all rows of a weight.
typedef struct {
  const espalier_gram *gram;
  /// n: the diagonal.
  const double *diagonal;
  /// n: square roots of the diagonal, none below a tiny positive number.
  const float *norms;
  /// n: not below the largest |G_ij| / (norms[i] norms[j]) over all j != i.
  const float *reach;
} espalier_swap_channels;

/// What a search did to a row.
typedef struct {
  /// The moves that led to its mask: swaps, or steps of whole groups.
  uint64_t moves;
  /// Moves whose change in loss was computed, and all that there were to choose from.
  uint64_t evaluated, choices;
  /// The loss of the row at first, and after the moves.
  double before, after;
  /// Whether it stopped at the limit, or ESPALIER_PATIENCE moves past the least loss on held-out inputs.
  uint32_t limited, stopped;
} espalier_swap_outcome;

/// One row of a weight, and what was done to it.
typedef struct {
  /// w[n], the weights.
  const float *w;
  /// kept[n], 0 or 1, in and out; the same count in each run, or group.
  uint8_t *kept;
  /// G ((1 - kept) . w) in the first n of espalier_swap_padded(n) elements; what it holds afterwards is the search's own.
  double *c;
  /// Its loss on held-out inputs, to be begun, whose least the row returns to; or null.
  espalier_held_out *held;
  espalier_swap_outcome outcome;
} espalier_swap_row;

/// Best-improvement 1-swaps of `count` rows, 1 or 2, each until no swap lowers its loss or `limit` swaps were made (SparseSwaps,
/// arXiv 2512.10922, algorithm 1). A swap prunes a kept u and restores a pruned p of the same run of `span` weights; span divides n,
/// and is n for rows. Two rows take turns, so that the rows of G that one needs arrive while the other is searched. How the best pair
/// is found without looking at all of them stands in swap.c. `scratch` has espalier_swap_scratch(n, span) bytes for each row and is
/// aligned to 64.
void espalier_swap_search(const espalier_swap_channels *channels, size_t span, uint64_t limit, size_t count, espalier_swap_row *rows,
                          void *scratch);
/// A multiple of 64.
size_t espalier_swap_scratch(size_t n, size_t span);
/// n, rounded up to what one step of the search takes.
size_t espalier_swap_padded(size_t n);

#endif
