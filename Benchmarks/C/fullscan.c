#include "CBenchmarks.h"
#include "lanes.h"

#include <math.h>

// A part of G of BLOCK rows and TILE columns stays in the second cache while all rows of the weight look at it.
enum { WIDTH = 16, TILE = 1024, BLOCK = 64, AT_ONCE = 4 };

// One row of the weight: a is infinite for pruned weights and b for kept ones, `twice` is 2 w.
typedef struct {
  float *a, *b;
  const float *w;
  // The kept weights, in order, and how far the scan has come among them.
  uint32_t *us;
  size_t count, next, u, p;
  float best;
  double loss;
  int done;
} scanned;

BODY void prepare(size_t n, const float *gram, const uint8_t *kept, const double *c, scanned *row) {
  for (size_t j = 0; j < n; j++) {
    float twice = (float)(2 * (double)row->w[j] * c[j]), square = row->w[j] * row->w[j] * gram[j];
    row->a[j] = kept[j] ? square + twice : INFINITY;
    row->b[j] = kept[j] ? INFINITY : square - twice;
  }
  row->count = 0;
  for (size_t j = 0; j < n; j++) {
    row->us[row->count] = (uint32_t)j;
    row->count += kept[j];
  }
  row->best = INFINITY;
}

// `count` kept u of one row against the columns [start, end).
BODY void scan(scanned *row, size_t n, const float *gram, size_t start, size_t end, size_t count, const uint32_t *us) {
  f32x16 value[AT_ONCE];
  float factors[AT_ONCE];
  const float *g[AT_ONCE];
  for (size_t k = 0; k < AT_ONCE; k++) {
    size_t u = us[k < count ? k : 0];
    value[k] = all16(INFINITY);
    factors[k] = -2 * row->w[u];
    g[k] = gram + u * n;
  }
  for (size_t j = start; j < end; j += WIDTH) {
    f32x16 w = load16(row->w + j), b = load16(row->b + j);
#pragma clang loop unroll(full)
    for (size_t k = 0; k < AT_ONCE; k++) value[k] = lesser16(b + factors[k] * (w * load16(g[k] + j)), value[k]);
  }
  f32x16 lowest = all16(INFINITY);
  for (size_t k = 0; k < AT_ONCE; k++) lowest = lesser16(row->a[us[k < count ? k : 0]] + value[k], lowest);
  if (!bits_of16(lowest < row->best)) return;
  for (size_t k = 0; k < count; k++) {
    float change = row->a[us[k]] + __builtin_reduce_min(value[k]);
    if (change < row->best) {
      row->best = change;
      row->u = us[k];
      row->p = start;
    }
  }
}

// The p of the best pair, of which its tile is known.
BODY void find(scanned *row, size_t n, const float *gram) {
  const float *g = gram + row->u * n;
  float factor = -2 * row->w[row->u], best = INFINITY;
  size_t start = row->p, end = start + TILE < n ? start + TILE : n;
  for (size_t j = start; j < end; j++) {
    float value = row->b[j] + factor * (row->w[j] * g[j]);
    if (value < best) {
      best = value;
      row->p = j;
    }
  }
}

BODY uint64_t scan_rows_body(size_t n, size_t rows, uint64_t limit, const float *gram, const float *w, uint8_t *kept, double *c,
                             uint8_t *scratch) {
  uint64_t pairs = 0;
  scanned *state = (scanned *)scratch;
  float *floats = (float *)(scratch + (rows * sizeof(scanned) + 63) / 64 * 64), *diagonal = floats + 2 * rows * n;
  for (size_t j = 0; j < n; j++) diagonal[j] = gram[j * n + j];
  for (size_t r = 0; r < rows; r++) {
    double loss = espalier_row_loss(n, w + r * n, kept + r * n, c + r * n);
    state[r] = (scanned){.a = floats + 2 * r * n, .b = floats + (2 * r + 1) * n, .w = w + r * n, .loss = loss};
    state[r].us = (uint32_t *)(diagonal + n) + r * n;
  }
  for (uint64_t step = 0; step < limit; step++) {
    size_t left = 0;
    for (size_t r = 0; r < rows; r++) {
      if (state[r].done) continue;
      prepare(n, diagonal, kept + r * n, c + r * n, &state[r]);
      left++;
    }
    if (left == 0) break;
    for (size_t start = 0; start < n; start += TILE) {
      size_t end = start + TILE < n ? start + TILE : n;
      for (size_t r = 0; r < rows; r++) state[r].next = 0;
      for (size_t block = 0; block < n; block += BLOCK)
        for (size_t r = 0; r < rows; r++) {
          scanned *row = &state[r];
          if (row->done) continue;
          size_t last = row->next;
          while (last < row->count && row->us[last] < block + BLOCK) last++;
          for (; row->next < last; row->next += AT_ONCE)
            scan(row, n, gram, start, end, last - row->next < AT_ONCE ? last - row->next : AT_ONCE, row->us + row->next);
          row->next = last;
        }
    }
    for (size_t r = 0; r < rows; r++) {
      if (state[r].done) continue;
      pairs += state[r].count * (n - state[r].count);
      if (!(state[r].best < -1e-6 * state[r].loss)) {
        state[r].done = 1;
        continue;
      }
      find(&state[r], n, gram);
      size_t u = state[r].u, p = state[r].p;
      kept[r * n + u] = 0;
      kept[r * n + p] = 1;
      state[r].loss += state[r].best;
      espalier_add_scaled(n, w[r * n + u], gram + u * n, c + r * n);
      espalier_add_scaled(n, -(double)w[r * n + p], gram + p * n, c + r * n);
    }
  }
  return pairs;
}
TIERS(uint64_t, scan_rows,
      (size_t n, size_t rows, uint64_t limit, const float *gram, const float *w, uint8_t *kept, double *c, uint8_t *scratch),
      (n, rows, limit, gram, w, kept, c, scratch))

uint64_t espalier_full_scan(size_t n, size_t rows, uint64_t limit, size_t squares, const float *gram, size_t values, const float *w,
                            uint8_t *kept, double *c, size_t bytes, uint8_t *scratch) {
  (void)squares, (void)values, (void)bytes;
  return espalier_scan_rows(n, rows, limit, gram, w, kept, c, scratch);
}

size_t espalier_full_scan_scratch(size_t n, size_t rows) {
  return (rows * sizeof(scanned) + 63) / 64 * 64 + (3 * rows + 1) * n * sizeof(float);
}
