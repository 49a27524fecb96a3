#include "CKernels.h"

#include <string.h>

void espalier_held_out_begin(espalier_held_out *held, const float *w, const uint8_t *kept, double own_loss) {
  double loss = espalier_row_loss(held->gram->n, w, kept, held->c);
  held->before = held->now = held->least = loss;
  held->own_at_least = own_loss;
  held->moves = held->moves_at_least = 0;
  held->flips = 0;
}

int espalier_held_out_move(espalier_held_out *held, const float *w, const uint8_t *kept, size_t count, const uint32_t *flipped,
                           double own_loss) {
  // One weight after another: c holds what the ones before changed, so that every pair of them is counted.
  for (size_t k = 0; k < count; k++) {
    size_t j = flipped[k];
    double added = kept[j] ? -(double)w[j] : w[j];
    const float *row = espalier_gram_row(held->gram, j, held->room);
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

void espalier_held_out_end(espalier_held_out *held, uint8_t *kept) {
  // A weight that moved twice is flipped twice.
  for (size_t k = 0; k < held->flips; k++) kept[held->flipped[k]] ^= 1;
  held->flips = 0;
}
