#include "tiers.h"
#include "exponential.h"

#include <math.h>

enum { LANES = 16 };

BODY float sum_of_squares(size_t n, const float *x) {
  float lanes[LANES] = {0};
  size_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (size_t j = 0; j < LANES; j++) lanes[j] += x[i + j] * x[i + j];
  double sum = 0;
  for (size_t j = 0; j < LANES; j++) sum += lanes[j];
  for (; i < n; i++) sum += x[i] * x[i];
  return (float)sum;
}

BODY void rms_norm_body(size_t n, float epsilon, const float *x, const float *weight, float *y) {
  float scale = 1.0f / sqrtf(sum_of_squares(n, x) / (float)n + epsilon);
  for (size_t i = 0; i < n; i++) y[i] = x[i] * scale * weight[i];
}
TIERS(void, rms_norm, (size_t n, float epsilon, const float *x, const float *weight, float *y), (n, epsilon, x, weight, y))

BODY void silu_multiply_body(size_t n, const float *restrict up, float *restrict gate) {
  for (size_t i = 0; i < n; i++) gate[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}
TIERS(void, silu_multiply, (size_t n, const float *up, float *gate), (n, up, gate))

BODY void add_body(size_t n, const float *restrict x, float *restrict y) {
  for (size_t i = 0; i < n; i++) y[i] += x[i];
}
TIERS(void, add, (size_t n, const float *x, float *y), (n, x, y))

BODY void rope_body(size_t half, size_t n, const float *restrict cosine, const float *restrict sine, float *restrict x) {
  for (size_t i = 0; i < half; i++) {
    float a = x[i], b = x[i + half];
    x[i] = a * cosine[i] - b * sine[i];
    x[i + half] = b * cosine[i] + a * sine[i];
  }
}
TIERS(void, rope, (size_t half, size_t n, const float *cosine, const float *sine, float *x), (half, n, cosine, sine, x))

BODY float largest_of(size_t n, const float *x) {
  float lanes[LANES];
  for (size_t j = 0; j < LANES; j++) lanes[j] = -INFINITY;
  size_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (size_t j = 0; j < LANES; j++) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
  float largest = -INFINITY;
  for (size_t j = 0; j < LANES; j++) largest = lanes[j] > largest ? lanes[j] : largest;
  for (; i < n; i++) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

BODY float exponentials_body(size_t n, size_t live, float factor, float *x) {
  float largest = largest_of(live, x);
  float lanes[LANES] = {0};
  size_t i = 0;
  for (; i + LANES <= live; i += LANES)
    for (size_t j = 0; j < LANES; j++) {
      float e = exponential((x[i + j] - largest) * factor);
      x[i + j] = e;
      lanes[j] += e;
    }
  double sum = 0;
  for (size_t j = 0; j < LANES; j++) sum += lanes[j];
  for (; i < live; i++) {
    x[i] = exponential((x[i] - largest) * factor);
    sum += x[i];
  }
  for (i = live; i < n; i++) x[i] = 0;
  return (float)(1.0 / sum);
}
TIERS(float, exponentials, (size_t n, size_t live, float factor, float *x), (n, live, factor, x))

BODY void log_sum_exp_body(size_t n, const float *restrict x, float *restrict largest, double *restrict sum) {
  float top = largest_of(n, x);
  double total = 0;
  // Runs of 64 are summed in f32 lanes and the runs in f64, so that a vocabulary of 2^18 loses no digits.
  for (size_t start = 0; start < n; start += 64) {
    size_t end = start + 64 < n ? start + 64 : n;
    float lanes[LANES] = {0};
    size_t i = start;
    for (; i + LANES <= end; i += LANES)
      for (size_t j = 0; j < LANES; j++) lanes[j] += exponential(x[i + j] - top);
    for (; i < end; i++) lanes[0] += exponential(x[i] - top);
    float run = 0;
    for (size_t j = 0; j < LANES; j++) run += lanes[j];
    total += run;
  }
  *largest = top;
  *sum = total;
}
TIERS(void, log_sum_exp, (size_t n, const float *x, float *largest, double *sum), (n, x, largest, sum))

BODY size_t index_of_body(size_t n, const float *x, float value) {
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    int found = 0;
    for (size_t j = 0; j < LANES; j++) found |= x[i + j] == value;
    if (found) break;
  }
  while (i < n && x[i] != value) i++;
  return i;
}
TIERS(size_t, index_of, (size_t n, const float *x, float value), (n, x, value))

BODY double weighted_excess_body(size_t n, const float *restrict x, float largest, const float *restrict y) {
  double total = 0;
  // In runs, as above.
  for (size_t start = 0; start < n; start += 64) {
    size_t end = start + 64 < n ? start + 64 : n;
    float lanes[LANES] = {0};
    size_t i = start;
    for (; i + LANES <= end; i += LANES)
      for (size_t j = 0; j < LANES; j++) lanes[j] += exponential(x[i + j] - largest) * (x[i + j] - y[i + j]);
    for (; i < end; i++) lanes[0] += exponential(x[i] - largest) * (x[i] - y[i]);
    float run = 0;
    for (size_t j = 0; j < LANES; j++) run += lanes[j];
    total += run;
  }
  return total;
}
TIERS(double, weighted_excess, (size_t n, const float *x, float largest, const float *y), (n, x, largest, y))

BODY void add_moments_body(size_t n, const float *restrict x, double *restrict sums, double *restrict squares) {
  for (size_t i = 0; i < n; i++) {
    double value = x[i];
    sums[i] += value;
    squares[i] += value * value;
  }
}
TIERS(void, add_moments, (size_t n, const float *x, double *sums, double *squares), (n, x, sums, squares))
