#include "lanes.h"

#include <math.h>

enum { WIDTH = 16 };

BODY size_t width_of(size_t m) { return m / WIDTH * WIDTH + WIDTH; }

void espalier_refit_gather(size_t n, size_t elements, const float *gram, const float *ridge, const float *b, size_t m,
                           const uint32_t *chosen, size_t k, const uint32_t *fixed, size_t squares, float *factor, size_t side_values,
                           float *sides, size_t values, float *tableau) {
  size_t width = width_of(m);
  for (size_t j = 0; j < k; j++) {
    const float *row = gram + (size_t)fixed[j] * n;
    for (size_t i = j; i < k; i++) factor[j * k + i] = row[fixed[i]];
    factor[j * k + j] += ridge[fixed[j]];
  }
  memset(tableau, 0, (m + 1) * width * sizeof(float));
  for (size_t i = 0; i < m; i++) {
    const float *row = gram + (size_t)chosen[i] * n;
    for (size_t j = 0; j < k; j++) sides[i * k + j] = row[fixed[j]];
    for (size_t j = 0; j < i; j++) tableau[i * width + j] = row[chosen[j]];
    tableau[i * width + i] = row[chosen[i]] + ridge[chosen[i]];
    tableau[m * width + i] = b[chosen[i]];
  }
  for (size_t j = 0; j < k; j++) sides[m * k + j] = b[fixed[j]];
}

// Moves channel k to the other set; `kept` is what it was.
BODY void sweep(size_t m, float *tableau, size_t k, int kept, float *restrict line) {
  size_t width = width_of(m);
  float *own = tableau + k * width, inverse = 1 / own[k], sign = kept ? -1 : 1;
  memcpy(line, own, width * sizeof(float));
  for (size_t i = 0; i <= m; i++) {
    if (i == k) continue;
    float *restrict row = tableau + i * width;
    float share = line[i] * inverse;
    f32x16 shares = all16(share);
    for (size_t j = 0; j < width; j += WIDTH) store16(row + j, load16(row + j) - shares * load16(line + j));
    row[k] = sign * share;
  }
  for (size_t j = 0; j < width; j++) own[j] = sign * inverse * line[j];
  own[k] = -inverse;
}

BODY void refit_begin_body(size_t m, const uint8_t *kept, size_t values, float *tableau, size_t floats, float *scratch) {
  size_t width = width_of(m);
  for (size_t i = 0; i <= m; i++)
    for (size_t j = 0; j < i; j++) tableau[j * width + i] = tableau[i * width + j];
  for (size_t k = 0; k < m; k++)
    if (kept[k]) sweep(m, tableau, k, 0, scratch);
}
TIERS(void, refit_begin, (size_t m, const uint8_t *kept, size_t values, float *tableau, size_t floats, float *scratch),
      (m, kept, values, tableau, floats, scratch))

typedef struct {
  size_t u, p;
  double gain;
} exchange;

// What the search knows of every kept channel; a pruned one has an infinite cost, and so does one whose pivot rounding has spoiled.
typedef struct {
  float *share, *inverse, *cost;
} sides;

BODY double gain_of(double r, double s, double h, double share, double inverse, double cost) {
  double reached = r + h * share;
  return reached * reached / (s + h * h * inverse) - cost;
}

BODY double exact_gain(const float *tableau, size_t width, size_t m, size_t u, size_t p) {
  const float *y = tableau + m * width;
  double a = -(double)tableau[u * width + u], v = y[u];
  return gain_of(y[p], tableau[p * width + p], tableau[p * width + u], v / a, 1 / a, v * v / a);
}

// The best exchange of p with a kept u of [start, end), or `best`.
BODY exchange best_of(const float *tableau, size_t m, size_t p, size_t start, size_t end, const sides *of, exchange best) {
  size_t width = width_of(m);
  const float *row = tableau + p * width;
  f32x16 r = all16(tableau[m * width + p]), s = all16(row[p]);
  for (size_t i = start / WIDTH * WIDTH; i < end; i += WIDTH) {
    f32x16 h = load16(row + i), reached = r + h * load16(of->share + i);
    f32x16 needed = (load16(of->cost + i) + (float)best.gain) * (s + h * h * load16(of->inverse + i));
    // A little more than f32 may have rounded away; the rest is decided in f64.
    uint64_t bits = bits_of16(reached * reached * 1.00001f > needed);
    for (; bits != 0; bits &= bits - 1) {
      size_t u = i + (size_t)__builtin_ctzll(bits);
      if (u < start || u >= end) continue;
      double gain = exact_gain(tableau, width, m, u, p);
      if (gain > best.gain) best = (exchange){u, p, gain};
    }
  }
  return best;
}

BODY espalier_refit_outcome refit_exchange_body(size_t m, uint8_t *kept, size_t span, uint64_t limit, double least, size_t values,
                                                float *tableau, size_t floats, float *scratch) {
  size_t width = width_of(m);
  float *line = scratch;
  sides of = {line + width, line + 2 * width, line + 3 * width};
  const float *y = tableau + m * width;
  espalier_refit_outcome outcome = {0, 0};
  while (outcome.moves < limit) {
    size_t first = m;
    float most = 0;
    for (size_t j = 0; j < width; j++) {
      float pivot = j < m ? tableau[j * width + j] : 0;
      int is_kept = j < m && kept[j] && pivot < 0;
      of.share[j] = is_kept ? -y[j] / pivot : 0;
      of.inverse[j] = is_kept ? -1 / pivot : 0;
      of.cost[j] = is_kept ? y[j] * of.share[j] : INFINITY;
      // What restoring p gains alone: with an exchange it gains no more.
      if (j >= m || kept[j]) continue;
      float bound = pivot > 0 ? y[j] * y[j] / pivot : 0;
      if (bound > most) most = bound, first = j;
    }
    if (first == m) break;
    exchange best = best_of(tableau, m, first, first / span * span, first / span * span + span, &of, (exchange){m, m, least});
    for (size_t p = 0; p < m; p++) {
      float pivot = tableau[p * width + p];
      if (kept[p] || !(pivot > 0) || p == first || !(y[p] * y[p] * 1.00001f > (float)best.gain * pivot)) continue;
      best = best_of(tableau, m, p, p / span * span, p / span * span + span, &of, best);
    }
    if (best.u == m) break;
    sweep(m, tableau, best.u, 1, line);
    sweep(m, tableau, best.p, 0, line);
    kept[best.u] = 0;
    kept[best.p] = 1;
    outcome.moves++;
    outcome.gain += best.gain;
  }
  return outcome;
}
TIERS(espalier_refit_outcome, refit_exchange,
      (size_t m, uint8_t *kept, size_t span, uint64_t limit, double least, size_t values, float *tableau, size_t floats, float *scratch),
      (m, kept, span, limit, least, values, tableau, floats, scratch))

BODY size_t refit_prices_body(size_t m, uint8_t *kept, int restores, size_t values, float *tableau, size_t count,
                              espalier_refit_price *prices, size_t floats, float *scratch) {
  size_t width = width_of(m), made = 0;
  const float *y = tableau + m * width;
  for (; made < count; made++) {
    size_t at = m;
    float best = INFINITY;
    for (size_t j = 0; j < m; j++) {
      float pivot = tableau[j * width + j];
      if (kept[j] == restores || !(restores ? pivot > 0 : pivot < 0)) continue;
      // v^2 / A for one that leaves, -r^2 / s for one that joins.
      float change = -y[j] * y[j] / pivot;
      if (change < best) best = change, at = j;
    }
    if (at == m) break;
    prices[made] = (espalier_refit_price){(uint32_t)at, best};
    sweep(m, tableau, at, kept[at], scratch);
    kept[at] = (uint8_t)restores;
  }
  return made;
}
TIERS(size_t, refit_prices,
      (size_t m, uint8_t *kept, int restores, size_t values, float *tableau, size_t count, espalier_refit_price *prices, size_t floats,
       float *scratch),
      (m, kept, restores, values, tableau, count, prices, floats, scratch))
