#include "tiers.h"

#include <math.h>

// Every function that takes or gives lanes is inlined: no calling convention is involved.
#pragma clang diagnostic ignored "-Wpsabi"

typedef double wide __attribute__((vector_size(64), aligned(8)));
typedef int64_t marks __attribute__((vector_size(64), aligned(8)));
typedef float lanes __attribute__((vector_size(32), aligned(4)));
typedef uint8_t flags __attribute__((vector_size(8), aligned(1)));

enum { WIDTH = 8 };

BODY wide widen(const float *x) { return __builtin_convertvector(*(const lanes *)x, wide); }

BODY wide choose(marks which, wide x, wide y) { return (wide)((which & (marks)x) | (~which & (marks)y)); }

// What pruning (where kept) or restoring (where not) weight j alone changes.
BODY double flip_change(const double *diagonal, const float *w, const uint8_t *kept, const double *c, size_t j) {
  double wj = w[j], twice = 2 * wj * c[j];
  return (kept[j] ? twice : -twice) + wj * wj * diagonal[j];
}

BODY espalier_row_ends find_row_ends_body(size_t n, const double *diagonal, const float *w, const uint8_t *kept, const double *c) {
  espalier_row_ends ends = {INFINITY, INFINITY, 0, 0};
  const wide none = {INFINITY, INFINITY, INFINITY, INFINITY, INFINITY, INFINITY, INFINITY, INFINITY};
  const marks zero = {0};
  wide least_a = none, least_b = none;
  marks at_a = zero, at_b = zero, index = {0, 1, 2, 3, 4, 5, 6, 7};
  size_t j = 0;
  for (; j + WIDTH <= n; j += WIDTH, index += WIDTH) {
    wide wj = widen(w + j), twice = (wj + wj) * *(const wide *)(c + j);
    marks is_kept = __builtin_convertvector(*(const flags *)(kept + j), marks) != zero;
    wide change = choose(is_kept, twice, -twice) + wj * wj * *(const wide *)(diagonal + j);
    marks lower_a = is_kept & (change < least_a), lower_b = ~is_kept & (change < least_b);
    least_a = choose(lower_a, change, least_a);
    least_b = choose(lower_b, change, least_b);
    at_a = (lower_a & index) | (~lower_a & at_a);
    at_b = (lower_b & index) | (~lower_b & at_b);
  }
  for (int k = 0; k < WIDTH; k++) {
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
