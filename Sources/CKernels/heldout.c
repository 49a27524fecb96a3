#include "search.h"

#include <string.h>

size_t espalier_held_out_scratch(size_t n) { return whole_lines(n * (sizeof(double) + sizeof(float))); }

void espalier_held_out_begin(held_out *held, const espalier_gram *gram, const double *c, const float *w, const uint8_t *kept,
                             double extra, double own_loss, uint8_t *scratch) {
  size_t n = gram->n;
  double loss = espalier_row_loss(n, w, kept, c) + extra;
  *held = (held_out){.gram = gram, .c = (double *)scratch, .now = loss, .least = loss, .own_at_least = own_loss};
  held->made_row = (float *)(held->c + n);
  memcpy(held->c, c, n * sizeof(double));
}

int espalier_held_out_move(held_out *held, const float *w, const uint8_t *kept, size_t count, const uint32_t *flipped,
                           double own_loss) {
  if (!held->gram) return 1;
  // One weight after another: c has what the ones before changed, so that every pair of them is counted.
  for (size_t k = 0; k < count; k++) {
    size_t j = flipped[k];
    double added = kept[j] ? -(double)w[j] : w[j];
    const float *row = espalier_gram_row(held->gram, j, held->made_row);
    held->now += 2 * added * held->c[j] + added * added * row[j];
    espalier_add_scaled(held->gram->n, added, row, held->c);
  }
  held->moves++;
  if (held->now < held->least) {
    held->least = held->now;
    held->own_at_least = own_loss;
    held->moves_at_least = held->moves;
    held->flips = 0;
    return 1;
  }
  memcpy(held->flipped + held->flips, flipped, count * sizeof(uint32_t));
  held->flips += count;
  return held->moves - held->moves_at_least < ESPALIER_PATIENCE;
}

void espalier_held_out_end(held_out *held, uint8_t *kept, espalier_swap_outcome *outcome) {
  if (!held->gram) return;
  // A weight that moved twice is flipped twice.
  for (size_t k = 0; k < held->flips; k++) kept[held->flipped[k]] ^= 1;
  outcome->moves = held->moves_at_least;
  outcome->after = held->own_at_least;
  outcome->held_after = held->least;
}
