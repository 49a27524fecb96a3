// The best exchange of a kept weight u and a pruned weight p of one row, again and again (SparseSwaps, arXiv 2512.10922).
//
// The change of the loss is  a_u + b_p - 2 w_u w_p G_up  with  a_u = 2 w_u c_u + w_u^2 G_uu  and  b_p = -2 w_p c_p + w_p^2 G_pp.
// With s_j = |w_j| sqrt(G_jj) and r_j = the largest |correlation| of channel j with another, both by Cauchy-Schwarz,
//
//     2 w_u w_p G_up  <=  min(x_u s_p, x_p s_u)      x_j = 2 s_j r_j
//
// so that b_p + h(x_p), h(x) = min over u of a_u - x s_u, bounds every pair of p from below, and a_u + h'(x_u) every pair of u. Both h
// are concave: the chords between a few slopes lie below them, and their least line at x is the chord's. The few p and u that are
// left are paired, the pair's own bound is tested, and only what passes reads G. Bounds carry the rounding of f32 with them; what
// decides is computed in f64, ties going to the lower u, then the lower p: the swaps are those of a full search in f64.

#include "tiers.h"

#include <math.h>
#include <string.h>

// Every function that takes or gives lanes is inlined: no calling convention is involved.
#pragma clang diagnostic ignored "-Wpsabi"

// Eight lanes, whatever the registers are.
typedef float lanes __attribute__((vector_size(32), aligned(4)));
typedef int32_t marks __attribute__((vector_size(32), aligned(4)));

enum { WIDTH = 8, SLOPES = 12 };

// One unit of rounding of f32, with room for the three operations that a term goes through.
static const float ROUNDING = 4e-7f;

typedef struct {
  size_t n, ld;
  const float *gram, *w;
  const double *c;
  // Lower bounds of a (infinite where pruned) and b (infinite where kept), and the static s and x.
  const float *a, *b, *s, *x;
  // Room for values of a row and for lists of candidates.
  float *values;
  uint32_t *few_u, *few_p;
} search_state;

typedef struct {
  size_t u, p;
  double change;
} exchange;

BODY lanes load(const float *x) { return *(const lanes *)x; }

BODY lanes all(float x) { return (lanes){x, x, x, x, x, x, x, x}; }

BODY float least_lane(lanes x) {
  float least = x[0];
  for (int i = 1; i < WIDTH; i++) least = x[i] < least ? x[i] : least;
  return least;
}

BODY double exact_change(const search_state *row, size_t u, size_t p) {
  double wu = row->w[u], wp = row->w[p];
  const float *gu = row->gram + u * row->ld, *gp = row->gram + p * row->ld;
  return 2 * wu * row->c[u] + wu * wu * gu[u] - 2 * wp * row->c[p] + wp * wp * gp[p] - 2 * wu * wp * gu[p];
}

BODY exchange better(exchange best, const search_state *row, size_t u, size_t p) {
  double change = exact_change(row, u, p);
  if (change > best.change || (change == best.change && (u > best.u || (u == best.u && p >= best.p)))) return best;
  return (exchange){u, p, change};
}

BODY float least_of(size_t start, size_t end, const float *x) {
  lanes least = all(INFINITY);
  size_t i = start;
  for (; i + WIDTH <= end; i += WIDTH) least = __builtin_elementwise_min(least, load(x + i));
  float value = least_lane(least);
  for (; i < end; i++) value = x[i] < value ? x[i] : value;
  return value;
}

BODY size_t first_equal(size_t start, size_t end, const float *x, float value) {
  size_t i = start;
  for (; i + 4 * WIDTH <= end; i += 4 * WIDTH) {
    marks found = load(x + i) == all(value);
    for (int k = 1; k < 4; k++) found |= load(x + i + k * WIDTH) == all(value);
    int any = 0;
    for (int k = 0; k < WIDTH; k++) any |= found[k];
    if (any) break;
  }
  while (i < end && x[i] != value) i++;
  return i;
}

// The best partner u of one p, by reading its whole row of G.
BODY size_t best_partner(const search_state *row, size_t start, size_t end, size_t p) {
  const float *g = row->gram + p * row->ld, *a = row->a, *w = row->w;
  float factor = -2 * w[p], *values = row->values;
  size_t i = start;
  for (; i + WIDTH <= end; i += WIDTH) *(lanes *)(values + i) = load(a + i) + all(factor) * load(w + i) * load(g + i);
  for (; i < end; i++) values[i] = a[i] + factor * w[i] * g[i];
  return first_equal(start, end, values, least_of(start, end, values));
}

// h at every slope: the least of y_j - slope_k s_j over [start, end).
BODY void envelope(size_t start, size_t end, const float *y, const float *s, const float *slopes, float *h) {
  lanes least[SLOPES];
  for (int k = 0; k < SLOPES; k++) least[k] = all(INFINITY);
  size_t i = start;
  for (; i + WIDTH <= end; i += WIDTH) {
    lanes yi = load(y + i), si = load(s + i);
#pragma clang loop unroll(full)
    for (int k = 0; k < SLOPES; k++) least[k] = __builtin_elementwise_min(least[k], yi - all(slopes[k]) * si);
  }
  for (int k = 0; k < SLOPES; k++) {
    h[k] = least_lane(least[k]);
    for (size_t j = i; j < end; j++) {
      float value = y[j] - slopes[k] * s[j];
      h[k] = value < h[k] ? value : h[k];
    }
  }
}

// Chords of a concave h between its slopes, lowered by the rounding of h and of the chords themselves.
BODY void chords(const float *slopes, const float *h, float *base, float *rise) {
  for (int k = 0; k + 1 < SLOPES; k++) {
    float width = slopes[k + 1] - slopes[k];
    rise[k] = width > 0 ? (h[k + 1] - h[k]) / width : 0;
    float lower = h[k] - rise[k] * slopes[k];
    if (!(width > 0) && h[k + 1] < lower) lower = h[k + 1];
    base[k] = lower - 16 * ROUNDING * (fabsf(h[k]) + fabsf(h[k + 1]));
  }
}

// The indices j in [start, end) whose y_j plus the least chord at x_j does not exceed `limit`.
BODY size_t survivors(size_t start, size_t end, const float *y, const float *x, const float *base, const float *rise, float floor,
                      float limit, uint32_t *few) {
  size_t count = 0;
  size_t i = start;
  // `floor` is below every chord: most runs of eight end here.
  for (; i + WIDTH <= end; i += WIDTH) {
    lanes yi = load(y + i);
    marks rough = yi + all(floor) <= all(limit);
    int any = 0;
    for (int k = 0; k < WIDTH; k++) any |= rough[k];
    if (!any) continue;
    lanes xi = load(x + i), least = all(INFINITY);
    for (int k = 0; k + 1 < SLOPES; k++) least = __builtin_elementwise_min(least, all(base[k]) + all(rise[k]) * xi);
    lanes bound = yi + least;
    for (size_t k = 0; k < WIDTH; k++)
      if (bound[k] <= limit) few[count++] = (uint32_t)(i + k);
  }
  for (; i < end; i++) {
    float least = INFINITY;
    for (int k = 0; k + 1 < SLOPES; k++) {
      float chord = base[k] + rise[k] * x[i];
      least = chord < least ? chord : least;
    }
    if (y[i] + least <= limit) few[count++] = (uint32_t)i;
  }
  return count;
}

// Below every chord of h, their rounding included.
BODY float below(const float *h) {
  float least = h[0], largest = 0;
  for (int k = 0; k < SLOPES; k++) {
    least = h[k] < least ? h[k] : least;
    largest = fabsf(h[k]) > largest ? fabsf(h[k]) : largest;
  }
  return least - 64 * ROUNDING * largest;
}

// f32 not below `value`.
BODY float upper(double value) {
  float rounded = (float)value;
  return rounded + fabsf(rounded) * 2e-7f + 1e-45f;
}

// The best exchange within [start, end).
BODY exchange search_run(const search_state *row, size_t start, size_t end, const float *slopes, exchange best, uint64_t *evaluated) {
  float lowest = least_of(start, end, row->b);
  if (!(lowest < INFINITY) || !(least_of(start, end, row->a) < INFINITY)) return best;
  size_t first = first_equal(start, end, row->b, lowest);
  best = better(best, row, best_partner(row, start, end, first), first);
  *evaluated += end - start;

  float h[SLOPES], base_p[SLOPES], rise_p[SLOPES], base_u[SLOPES], rise_u[SLOPES];
  envelope(start, end, row->a, row->s, slopes, h);
  chords(slopes, h, base_p, rise_p);
  size_t count_p = survivors(start, end, row->b, row->x, base_p, rise_p, below(h), upper(best.change), row->few_p);
  if (count_p == 0) return best;
  envelope(start, end, row->b, row->s, slopes, h);
  chords(slopes, h, base_u, rise_u);
  size_t count_u = survivors(start, end, row->a, row->x, base_u, rise_u, below(h), upper(best.change), row->few_u);
  float limit = upper(best.change);
  for (size_t i = 0; i < count_p; i++) {
    size_t p = row->few_p[i];
    float bp = row->b[p], sp = row->s[p], xp = row->x[p];
    for (size_t k = 0; k < count_u; k++) {
      size_t u = row->few_u[k];
      float by_u = row->x[u] * sp, by_p = xp * row->s[u];
      float reach = by_u < by_p ? by_u : by_p;
      float sum = row->a[u] + bp;
      if (sum - reach - ROUNDING * (fabsf(row->a[u]) + fabsf(bp) + reach) > limit) continue;
      ++*evaluated;
      best = better(best, row, u, p);
      limit = upper(best.change);
    }
  }
  return best;
}

// The best exchange of a small group, by trying all.
BODY exchange search_group(const search_state *row, size_t start, size_t end, exchange best, uint64_t *evaluated) {
  float limit = upper(best.change);
  for (size_t u = start; u < end; u++) {
    if (!(row->a[u] < INFINITY)) continue;
    const float *g = row->gram + u * row->ld;
    float factor = 2 * row->w[u];
    for (size_t p = start; p < end; p++) {
      if (!(row->b[p] < INFINITY)) continue;
      ++*evaluated;
      float cross = factor * row->w[p] * g[p];
      float value = row->a[u] + row->b[p] - cross;
      if (value - 2 * ROUNDING * (fabsf(row->a[u]) + fabsf(row->b[p]) + fabsf(cross)) > limit) continue;
      best = better(best, row, u, p);
      limit = upper(best.change);
    }
  }
  return best;
}

// c += wu gu - wp gp, and from the new c the lower bounds of a and b.
BODY void refresh(size_t n, double wu, const float *restrict gu, double wp, const float *restrict gp, const float *restrict w,
                  const float *restrict square, const float *restrict barred_u, const float *restrict barred_p, double *restrict c,
                  float *restrict a, float *restrict b) {
  for (size_t j = 0; j < n; j++) {
    double next = c[j] + (wu * (double)gu[j] - wp * (double)gp[j]);
    c[j] = next;
    float twice = (float)(2 * (double)w[j] * next);
    float low = square[j] - ROUNDING * (square[j] + fabsf(twice));
    a[j] = low + twice + barred_u[j];
    b[j] = low - twice + barred_p[j];
  }
}

BODY espalier_swap_counts swap_row_body(size_t n, size_t span, uint64_t limit, size_t ld, const float *gram, const float *norms,
                                        const float *reach, const float *w, uint8_t *kept, double *c, float *scratch) {
  float *a = scratch, *b = a + n, *s = b + n, *x = s + n, *square = x + n, *barred_u = square + n, *barred_p = barred_u + n;
  search_state row = {n, ld, gram, w, c, a, b, s, x, barred_p + n, (uint32_t *)(barred_p + 2 * n), (uint32_t *)(barred_p + 3 * n)};
  espalier_swap_counts counts = {0, 0, 0};
  double loss = 0;
  uint64_t kept_count = 0;
  float steepest = 0;
  for (size_t j = 0; j < n; j++) {
    s[j] = fabsf(w[j]) * norms[j];
    x[j] = 2 * s[j] * reach[j];
    square[j] = w[j] * w[j] * gram[j * ld + j];
    barred_u[j] = kept[j] ? 0 : INFINITY;
    barred_p[j] = kept[j] ? INFINITY : 0;
    steepest = x[j] > steepest ? x[j] : steepest;
    if (!kept[j]) loss += (double)w[j] * c[j];
    kept_count += kept[j];
  }
  // Most x are far below the largest: slopes lie closer there.
  float slopes[SLOPES];
  slopes[0] = 0;
  slopes[SLOPES - 1] = steepest;
  for (int k = SLOPES - 2; k > 0; k--) slopes[k] = slopes[k + 1] * 0.62f;
  size_t runs = n / span;
  uint64_t pairs = runs * (kept_count / runs) * (span - kept_count / runs);
  refresh(n, 0, gram, 0, gram, w, square, barred_u, barred_p, c, a, b);
  while (counts.swaps < limit) {
    exchange best = {n, n, INFINITY};
    for (size_t start = 0; start < n; start += span)
      best = span > 32 ? search_run(&row, start, start + span, slopes, best, &counts.evaluated)
                       : search_group(&row, start, start + span, best, &counts.evaluated);
    counts.pairs += pairs;
    // Below the rounding of the correlations the loss no longer falls for sure, and a swap could be taken back for ever.
    if (best.u == n || !(best.change < -1e-9 * fabs(loss))) break;
    size_t u = best.u, p = best.p;
    kept[u] = 0;
    kept[p] = 1;
    barred_u[u] = barred_p[p] = INFINITY;
    barred_u[p] = barred_p[u] = 0;
    loss += best.change;
    counts.swaps++;
    refresh(n, w[u], gram + u * ld, w[p], gram + p * ld, w, square, barred_u, barred_p, c, a, b);
  }
  return counts;
}
TIERS(espalier_swap_counts, swap_row,
      (size_t n, size_t span, uint64_t limit, size_t ld, const float *gram, const float *norms, const float *reach, const float *w,
       uint8_t *kept, double *c, float *scratch),
      (n, span, limit, ld, gram, norms, reach, w, kept, c, scratch))

// The largest of |G_ij| / (norm_i norm_j) over j != i, rounded up.
BODY float reach_of_body(size_t n, size_t i, const float *g, const float *norms) {
  float largest = 0;
  lanes most = all(0);
  for (size_t from = 0, part = 0; part < 2; part++) {
    size_t end = part == 0 ? i : n;
    size_t j = from;
    for (; j + WIDTH <= end; j += WIDTH) most = __builtin_elementwise_max(most, __builtin_elementwise_abs(load(g + j)) / load(norms + j));
    for (; j < end; j++) {
      float value = fabsf(g[j]) / norms[j];
      largest = value > largest ? value : largest;
    }
    from = i + 1;
  }
  for (int k = 0; k < WIDTH; k++) largest = most[k] > largest ? most[k] : largest;
  return largest / norms[i] * (1 + 1e-6f);
}
TIERS(float, reach_of, (size_t n, size_t i, const float *g, const float *norms), (n, i, g, norms))

void espalier_pruned_part(size_t n, const float *w, const uint8_t *kept, float *d) {
  for (size_t i = 0; i < n; i++) d[i] = kept[i] ? 0 : w[i];
}

double espalier_row_loss(size_t n, const float *w, const uint8_t *kept, const double *c) {
  double loss = 0;
  for (size_t i = 0; i < n; i++) loss += kept[i] ? 0 : (double)w[i] * c[i];
  return loss;
}
