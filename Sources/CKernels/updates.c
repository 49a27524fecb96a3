#include "tiers.h"

#include <math.h>

// Sums in f64 have eight lanes of their own, so that every instruction set adds in the same order.
enum { LANES = 8 };

BODY double total(const double *lanes) {
  double sum = 0;
  for (int k = 0; k < LANES; k++) sum += lanes[k];
  return sum;
}

BODY double dot_body(size_t n, const float *restrict x, const float *restrict y) {
  double lanes[LANES] = {0};
  size_t whole = n - n % LANES;
  for (size_t i = 0; i < whole; i += LANES)
    for (size_t k = 0; k < LANES; k++) lanes[k] += (double)x[i + k] * (double)y[i + k];
  for (size_t i = whole; i < n; i++) lanes[i - whole] += (double)x[i] * (double)y[i];
  return total(lanes);
}
TIERS(double, dot, (size_t n, const float *x, const float *y), (n, x, y))

size_t espalier_fit_gather(size_t n, const uint8_t *kept, const float *inverse, const float *damping, size_t elements,
                           const float *gram, const float *r, size_t most, uint32_t *channels, size_t squares, double *matrix,
                           double *side) {
  size_t count = 0;
  for (size_t i = 0; i < n && count < most; i++)
    if (kept[i] && inverse[i] > 0) channels[count++] = (uint32_t)i;
  for (size_t j = 0; j < count; j++) {
    size_t channel = channels[j];
    const float *row = gram + channel * n;
    for (size_t i = j; i < count; i++) matrix[j * count + i] = row[channels[i]];
    matrix[j * count + j] += damping[channel];
    side[j] = r[channel];
  }
  return count;
}

BODY double fit_begin_body(size_t n, const uint8_t *restrict kept, const float *restrict inverse, float *restrict x, float *restrict r,
                           float *restrict p) {
  for (size_t i = 0; i < n; i++) {
    x[i] = 0;
    r[i] = kept[i] ? r[i] : 0;
    p[i] = inverse[i] * r[i];
  }
  return dot_body(n, r, p);
}
TIERS(double, fit_begin, (size_t n, const uint8_t *kept, const float *inverse, float *x, float *r, float *p),
      (n, kept, inverse, x, r, p))

BODY espalier_fit fit_step_body(size_t n, double left, const uint8_t *restrict kept, const float *restrict damping,
                                const float *restrict inverse, const float *restrict q, float *restrict p, float *restrict x,
                                float *restrict r) {
  double lanes[LANES] = {0}, rest[LANES] = {0};
  size_t whole = n - n % LANES;
  // p is 0 where nothing is kept.
  for (size_t i = 0; i < whole; i += LANES)
    for (size_t k = 0; k < LANES; k++) lanes[k] += (double)p[i + k] * (double)(q[i + k] + damping[i + k] * p[i + k]);
  for (size_t i = whole; i < n; i++) lanes[i - whole] += (double)p[i] * (double)(q[i] + damping[i] * p[i]);
  double curvature = total(lanes);
  // Along p the loss is flat to rounding: there is nothing left to gain.
  if (!(curvature > 0)) return (espalier_fit){0, 0};
  double length = left / curvature;
  float step = (float)length;
  for (size_t i = 0; i < n; i++) {
    x[i] += step * p[i];
    float change = step * (q[i] + damping[i] * p[i]);
    r[i] = kept[i] ? r[i] - change : 0;
  }
  for (size_t i = 0; i < whole; i += LANES)
    for (size_t k = 0; k < LANES; k++) rest[k] += (double)r[i + k] * (double)(inverse[i + k] * r[i + k]);
  for (size_t i = whole; i < n; i++) rest[i - whole] += (double)r[i] * (double)(inverse[i] * r[i]);
  double now = total(rest);
  float share = (float)(now / left);
  for (size_t i = 0; i < n; i++) p[i] = inverse[i] * r[i] + share * p[i];
  return (espalier_fit){now, length * left};
}
TIERS(espalier_fit, fit_step,
      (size_t n, double left, const uint8_t *kept, const float *damping, const float *inverse, const float *q, float *p, float *x,
       float *r),
      (n, left, kept, damping, inverse, q, p, x, r))

double espalier_fit_end(size_t n, const uint8_t *kept, const float *damping, const float *x, float *w) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) {
    sum += kept[i] ? (double)damping[i] * x[i] * x[i] : 0;
    w[i] = kept[i] ? w[i] + x[i] : 0;
  }
  return sum;
}

BODY void obs_scores_body(size_t n, size_t ld, size_t elements, const float *restrict factor, const float *restrict w, float *restrict scores) {
  for (size_t i = 0; i < n; i++) {
    float share = w[i] / factor[i * (ld + 1)];
    scores[i] = share * share;
  }
}
TIERS(void, obs_scores, (size_t n, size_t ld, size_t elements, const float *factor, const float *w, float *scores),
      (n, ld, elements, factor, w, scores))

BODY void obs_row_body(size_t n, size_t ld, size_t elements, const float *restrict factor, size_t group, size_t prune,
                       float *restrict w, uint8_t *restrict kept, float *restrict errors) {
  for (size_t i = 0; i < n; i++) {
    if (group > 0 && i % group == 0) {
      for (size_t j = i; j < i + group; j++) kept[j] = 1;
      // Of equal costs the lower index goes first.
      for (size_t gone = 0; gone < prune; gone++) {
        size_t least = n;
        float lowest = INFINITY;
        for (size_t j = i; j < i + group; j++) {
          float share = w[j] / factor[j * (ld + 1)];
          if (kept[j] && (least == n || share * share < lowest)) {
            least = j;
            lowest = share * share;
          }
        }
        kept[least] = 0;
      }
    }
    errors[i] = 0;
    if (kept[i]) continue;
    const float *row = factor + i * ld;
    float error = w[i] / row[i];
    errors[i] = error;
    w[i] = 0;
    for (size_t j = i + 1; j < n; j++) w[j] -= error * row[j];
  }
}
TIERS(void, obs_row,
      (size_t n, size_t ld, size_t elements, const float *factor, size_t group, size_t prune, float *w, uint8_t *kept, float *errors),
      (n, ld, elements, factor, group, prune, w, kept, errors))

BODY void admm_side_body(size_t n, float rho, float shrink, const uint8_t *restrict kept, const float *restrict w,
                         const float *restrict y, float *restrict t) {
  for (size_t i = 0; i < n; i++) t[i] = rho * ((kept[i] ? 1 : -shrink) * y[i] - w[i]);
}
TIERS(void, admm_side, (size_t n, float rho, float shrink, const uint8_t *kept, const float *w, const float *y, float *t),
      (n, rho, shrink, kept, w, y, t))

BODY void admm_divide_body(size_t n, float rho, const float *restrict values, float *restrict z) {
  for (size_t i = 0; i < n; i++) z[i] /= values[i] + rho;
}
TIERS(void, admm_divide, (size_t n, float rho, const float *values, float *z), (n, rho, values, z))

BODY void admm_next_body(size_t n, float shrink, const uint8_t *restrict kept, const float *restrict w, float *restrict x,
                         float *restrict y, float *restrict magnitudes) {
  for (size_t i = 0; i < n; i++) {
    x[i] += w[i];
    y[i] = x[i] + (kept[i] ? 0 : shrink) * y[i];
    magnitudes[i] = fabsf(y[i]);
  }
}
TIERS(void, admm_next,
      (size_t n, float shrink, const uint8_t *kept, const float *w, float *x, float *y, float *magnitudes),
      (n, shrink, kept, w, x, y, magnitudes))

double espalier_admm_gap(size_t n, const uint8_t *kept, const float *x, const float *y) {
  double apart = 0, size = 0;
  for (size_t i = 0; i < n; i++) {
    double sparse = kept[i] ? y[i] : 0;
    apart += (x[i] - sparse) * (x[i] - sparse);
    size += sparse * sparse;
  }
  return size > 0 ? apart / size : 0;
}
