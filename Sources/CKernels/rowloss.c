#include "lanes.h"

#include <math.h>

BODY void pruned_part_body(size_t n, const float *restrict w, const uint8_t *restrict kept, float *restrict d) {
  for (size_t i = 0; i < n; i++) d[i] = kept[i] ? 0 : w[i];
}
TIERS(void, pruned_part, (size_t n, const float *w, const uint8_t *kept, float *d), (n, w, kept, d))

double espalier_row_loss(size_t n, const float *w, const uint8_t *kept, const double *c) {
  double loss = 0;
  for (size_t i = 0; i < n; i++) loss += kept[i] ? 0 : (double)w[i] * c[i];
  return loss;
}

// The change of the loss from pruning weight j if it is kept, or restoring it if it is not.
BODY double flip_change(const double *diagonal, const float *w, const uint8_t *kept, const double *c, size_t j) {
  double wj = w[j], twice = 2 * wj * c[j];
  return (kept[j] ? twice : -twice) + wj * wj * diagonal[j];
}

BODY espalier_row_ends find_row_ends_body(size_t n, const double *diagonal, const float *w, const uint8_t *kept, const double *c) {
  espalier_row_ends ends = {INFINITY, INFINITY, 0, 0};
  f64x8 least_a = (f64x8)(INFINITY), least_b = least_a;
  i64x8 at_a = 0, at_b = 0, index = {0, 1, 2, 3, 4, 5, 6, 7};
  size_t j = 0;
  for (; j + 8 <= n; j += 8, index += 8) {
    f64x8 wj = widen8(load8(w + j)), twice = (wj + wj) * load_f64x8(c + j);
    i64x8 is_kept = kept8(kept + j);
    f64x8 change = (is_kept ? twice : -twice) + wj * wj * load_f64x8(diagonal + j);
    i64x8 lower_a = is_kept & (change < least_a), lower_b = ~is_kept & (change < least_b);
    least_a = lower_a ? change : least_a;
    least_b = lower_b ? change : least_b;
    at_a = lower_a ? index : at_a;
    at_b = lower_b ? index : at_b;
  }
  for (int k = 0; k < 8; k++) {
    if (least_a[k] < ends.prune || (least_a[k] == ends.prune && at_a[k] < ends.u))
      ends.prune = least_a[k], ends.u = (uint32_t)at_a[k];
    if (least_b[k] < ends.restore || (least_b[k] == ends.restore && at_b[k] < ends.p))
      ends.restore = least_b[k], ends.p = (uint32_t)at_b[k];
  }
  for (; j < n; j++) {
    double change = flip_change(diagonal, w, kept, c, j);
    if (kept[j] && change < ends.prune) ends.prune = change, ends.u = (uint32_t)j;
    if (!kept[j] && change < ends.restore) ends.restore = change, ends.p = (uint32_t)j;
  }
  return ends;
}
TIERS(espalier_row_ends, find_row_ends, (size_t n, const double *diagonal, const float *w, const uint8_t *kept, const double *c),
      (n, diagonal, w, kept, c))
