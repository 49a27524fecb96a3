#include "tiers.h"

#include <math.h>
#include <string.h>

// Columns of the row that stay in the cache while the factor goes by.
enum { COLUMNS = 512 };

BODY void made_row_body(const espalier_gram *gram, size_t i, float *restrict made) {
  size_t n = gram->n;
  for (size_t start = 0; start < n; start += COLUMNS) {
    size_t end = start + COLUMNS < n ? start + COLUMNS : n;
    memset(made + start, 0, (end - start) * sizeof(float));
    for (size_t r = 0; r < gram->rank; r++) {
      const float *f = gram->factor + r * n;
      float scale = f[i];
      for (size_t j = start; j < end; j++) made[j] += scale * f[j];
    }
  }
  made[i] += gram->rest[i];
}
TIERS(void, made_row, (const espalier_gram *gram, size_t i, float *made), (gram, i, made))

const float *espalier_gram_row(const espalier_gram *gram, size_t i, float *made) {
  if (gram->elements) return gram->elements + i * gram->n;
  espalier_made_row(gram, i, made);
  return made;
}

double espalier_gram_entry(const espalier_gram *gram, size_t i, size_t j) {
  if (gram->elements) return gram->elements[i * gram->n + j];
  double sum = i == j ? gram->rest[i] : 0;
  for (size_t r = 0; r < gram->rank; r++) sum += (double)gram->factor[r * gram->n + i] * gram->factor[r * gram->n + j];
  return sum;
}

BODY float larger(float x, float y) { return x > y ? x : y; }

// One row from column j on, up to the column `end`; the largest of it.
BODY float raise_to(size_t j, size_t end, float own, const float *restrict g, const float *restrict inverse,
                    float *restrict largest) {
  enum { LANES = 32 };
  float most[LANES] = {0};
  for (; j + LANES <= end; j += LANES)
    for (size_t k = 0; k < LANES; k++) {
      float value = fabsf(g[j + k]) * inverse[j + k] * own;
      largest[j + k] = larger(value, largest[j + k]);
      most[k] = larger(value, most[k]);
    }
  for (; j < end; j++) {
    float value = fabsf(g[j]) * inverse[j] * own;
    largest[j] = larger(value, largest[j]);
    most[0] = larger(value, most[0]);
  }
  for (size_t k = 1; k < LANES; k++) most[0] = larger(most[k], most[0]);
  return most[0];
}

BODY void raise_correlations_body(size_t n, size_t start, size_t count, size_t n_rows, const float *rows, const float *inverse, float *largest) {
  for (size_t i = start; i < start + count; i++) {
    const float *g = rows + (i - start) * n;
    // The diagonal is stepped over.
    float before = raise_to(start, i, inverse[i], g, inverse, largest);
    float behind = raise_to(i + 1, n, inverse[i], g, inverse, largest);
    largest[i] = larger(larger(before, behind), largest[i]);
  }
}
TIERS(void, raise_correlations, (size_t n, size_t start, size_t count, size_t n_rows, const float *rows, const float *inverse, float *largest),
      (n, start, count, n_rows, rows, inverse, largest))

BODY void add_scaled_body(size_t n, double factor, const float *restrict x, double *restrict y) {
  for (size_t j = 0; j < n; j++) y[j] += factor * (double)x[j];
}
TIERS(void, add_scaled, (size_t n, double factor, const float *x, double *y), (n, factor, x, y))

void espalier_add_gram_row(espalier_gram gram, size_t i, double factor, size_t n, float *made_row, double *y) {
  espalier_add_scaled(n, factor, espalier_gram_row(&gram, i, made_row), y);
}
