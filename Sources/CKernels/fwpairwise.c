// Mass moves from the entry u to the entry p by the exact amount, which needs two rows of G.

#include "fwrow.h"

#include <math.h>

typedef struct {
  size_t n, padded;
  const espalier_gram *gram;
  const float *w;
  float *x;
  double *c;
  // The weights, and how far x can rise and fall; 0 if frozen.
  float *free, *rise, *fall;
  // free . c and w_j^2 G_jj.
  float *s, *square;
  // Scratch for the choice of a vertex, and for two rows of G.
  float *few, *row_p, *row_u;
} relaxed_row;

// The entry of the largest value, the lower index if several have it. Lane k has the value of the entry at[k] + k.
BODY size_t place_of_largest(f32x16 values, i32x16 at, float largest) {
  size_t place = SIZE_MAX;
  for (int k = 0; k < 16; k++) {
    size_t own = (size_t)at[k] + (size_t)k;
    if (values[k] == largest && own < place) place = own;
  }
  return place;
}

typedef struct {
  size_t index;
  float value;
} best_entry;

// c += by_u G_u - by_p G_p and s again; the largest s that can rise (below all others if none can).
BODY best_entry move_pair(const relaxed_row *row, double by_u, const float *gu, double by_p, const float *gp) {
  f32x16 most = (f32x16)(-INFINITY);
  i32x16 at = 0;
  for (size_t i = 0; i < row->padded; i += 16) {
    f64x8 low = load_f64x8(row->c + i), high = load_f64x8(row->c + i + 8);
    if (gu) {
      size_t left = i < row->n ? row->n - i : 0;
      f32x16 u = load_up_to16(left, gu + i), p = load_up_to16(left, gp + i);
      low += by_u * widen8(u.lo) - by_p * widen8(p.lo);
      high += by_u * widen8(u.hi) - by_p * widen8(p.hi);
      store_f64x8(row->c + i, low);
      store_f64x8(row->c + i + 8, high);
    }
    f32x16 s = load16(row->free + i) * narrow16(low, high);
    store16(row->s + i, s);
    i32x16 larger = (load16(row->rise + i) > 0) & (s > most);
    most = larger ? s : most;
    at = larger ? (i32x16)((int32_t)i) : at;
  }
  float largest = largest16(most);
  return (best_entry){place_of_largest(most, at, largest), largest};
}

// The entry that gains most by giving mass to p, and what it gains; 0 if none does.
BODY best_entry best_giver(const relaxed_row *row, size_t p, const float *gp) {
  best_entry best = {row->n, 0};
  float sp = row->s[p], square = row->square[p], most = row->rise[p], factor = -2 * row->w[p], least = 1e-7f * square + 1e-30f;
  for (size_t i = 0; i < row->padded; i += 16) {
    size_t left = i < row->n ? row->n - i : 0;
    f32x16 slope = sp - load16(row->s + i), fall = load16(row->fall + i);
    f32x16 curve = square + load16(row->square + i) + factor * load16(row->free + i) * load_up_to16(left, gp + i);
    curve = __builtin_elementwise_max(curve, all16(least));
    // No step gains more than slope^2 / curve; the division is skipped if that is too little.
    if (!bits_of16((fall > 0) & (slope > 0) & (slope * slope > best.value * curve))) continue;
    f32x16 by = __builtin_elementwise_min(slope / curve, __builtin_elementwise_min(fall, all16(most)));
    by = __builtin_elementwise_max(by, all16(0));
    f32x16 gain = by * (slope + slope - by * curve);
    float largest = largest16(gain);
    if (largest > best.value) best = (best_entry){place_of_largest(gain, (i32x16)((int32_t)i), largest), largest};
  }
  return best;
}

BODY void set_relaxed(const relaxed_row *row, size_t j, float x) {
  row->x[j] = x;
  row->rise[j] = 1 - x;
  row->fall[j] = x;
}

// The amount that moves from u to p, exactly; rounds x, and tells what moved after rounding.
BODY void move_mass(const relaxed_row *row, size_t p, size_t u, double cross, double *to_p, double *from_u) {
  const espalier_gram *gram = row->gram;
  double wp = row->w[p], wu = row->w[u], xp = row->x[p], xu = row->x[u];
  double slope = wp * row->c[p] - wu * row->c[u];
  double curve = wp * wp * espalier_gram_entry(gram, p, p) + wu * wu * espalier_gram_entry(gram, u, u) - 2 * wp * wu * cross;
  double most = 1 - xp < xu ? 1 - xp : xu;
  double by = curve > 0 && slope / curve < most ? slope / curve : most;
  if (!(by > 0)) by = 0;
  set_relaxed(row, p, by == 1 - xp ? 1 : (float)(xp + by));
  set_relaxed(row, u, by == xu ? 0 : (float)(xu - by));
  *to_p = row->x[p] - xp;
  *from_u = xu - row->x[u];
}

BODY double relaxed_loss(const relaxed_row *row) {
  double loss = 0;
  for (size_t j = 0; j < row->n; j++) loss += (double)row->w[j] * (1 - (double)row->x[j]) * row->c[j];
  return loss;
}

BODY relaxed_row row_of(size_t words, size_t padded, const espalier_gram *gram, const float *w, const uint64_t *frozen, float *x,
                        double *c, size_t scratch_count, float *scratch) {
  require(padded == 64 * words && scratch_count == ESPALIER_FW_PAIR_SCRATCH * padded && gram->n <= padded);
  relaxed_row row = {.n = gram->n, .padded = padded, .gram = gram, .w = w, .x = x, .c = c};
  float **parts[ESPALIER_FW_PAIR_SCRATCH] = {&row.free, &row.rise, &row.fall, &row.s, &row.square, &row.few, &row.row_p, &row.row_u};
  for (size_t k = 0; k < ESPALIER_FW_PAIR_SCRATCH; k++) *parts[k] = scratch + k * padded;
  for (size_t j = 0; j < padded; j++) {
    int can = j < row.n && !is_member(frozen, j);
    row.free[j] = can ? w[j] : 0;
    row.rise[j] = can ? 1 - x[j] : 0;
    row.fall[j] = can ? x[j] : 0;
    row.square[j] = can ? w[j] * w[j] * (float)espalier_gram_entry(gram, j, j) : 0;
  }
  return row;
}

// The gap is at most this, for any price: what mass gains above it where x can rise, and below it where x can fall.
BODY double gap_at_price(const relaxed_row *row, double price) {
  double gap = 0;
  for (size_t j = 0; j < row->n; j++) {
    double slope = (double)row->free[j] * row->c[j] - price;
    gap += slope * (slope > 0 ? row->rise[j] : -row->fall[j]);
  }
  return 2 * gap;
}

BODY espalier_fw_end fw_pairs_body(size_t words, size_t padded, espalier_gram gram, const float *w, const uint64_t *frozen,
                                   size_t budget, uint64_t limit, double tolerance, float *x, double *c, size_t scratch_count,
                                   float *scratch, uint64_t *next) {
  relaxed_row row = row_of(words, padded, &gram, w, frozen, x, c, scratch_count, scratch);
  espalier_fw_end end = {0, 0, 0};
  uint64_t pause = row.n / 4 + 1;
  espalier_fw_guess guess = {0, 0};
  best_entry top = move_pair(&row, 0, 0, 0, 0);
  for (;; end.steps++) {
    // Nothing can rise if all is kept.
    int last = end.steps >= limit || !(top.value > -INFINITY);
    if (end.steps % pause == 0 || last) {
      double inside = 0;
      for (size_t j = 0; j < row.n; j++) inside += (double)row.s[j] * x[j];
      memset(next, 0, words * sizeof *next);
      end.loss = relaxed_loss(&row);
      double gap = 2 * (espalier_fw_largest(words, padded, budget, row.s, &guess, row.few, next) - inside);
      double priced = gap_at_price(&row, top.value);
      end.gap = priced < gap ? priced : gap;
      if (last || end.gap <= tolerance * end.loss) return end;
    }
    size_t p = top.index;
    const float *gp = espalier_gram_row(&gram, p, row.row_p);
    size_t u = best_giver(&row, p, gp).index;
    double to_p = 0, from_u = 0;
    if (u < row.n) move_mass(&row, p, u, gp[u], &to_p, &from_u);
    if (to_p == 0 && from_u == 0) {
      // Nothing moves any more in f32.
      limit = end.steps--;
      continue;
    }
    const float *gu = espalier_gram_row(&gram, u, row.row_u);
    top = move_pair(&row, w[u] * from_u, gu, w[p] * to_p, gp);
  }
}
TIERS(espalier_fw_end, fw_pairs,
      (size_t words, size_t padded, espalier_gram gram, const float *w, const uint64_t *frozen, size_t budget, uint64_t limit,
       double tolerance, float *x, double *c, size_t scratch_count, float *scratch, uint64_t *next),
      (words, padded, gram, w, frozen, budget, limit, tolerance, x, c, scratch_count, scratch, next))

// Twice what the best `keep` of a group gain over x.
BODY double group_gap(const relaxed_row *row, const uint64_t *frozen, size_t start, size_t size, size_t keep) {
  double gap = 0;
  for (size_t i = start; i < start + size; i++) {
    if (is_member(frozen, i)) continue;
    double s = (double)row->w[i] * row->c[i];
    size_t before = 0;
    for (size_t j = start; j < start + size; j++) {
      double other = is_member(frozen, j) ? INFINITY : (double)row->w[j] * row->c[j];
      before += other > s || (other == s && j < i);
    }
    gap += s * ((before < keep) - (double)row->x[i]);
  }
  return 2 * gap;
}

// The best pair of a group takes its step; whether anything moved.
BODY int step_in_group(const relaxed_row *row, size_t start, size_t size) {
  const espalier_gram *gram = row->gram;
  size_t best_p = row->n, best_u = row->n;
  double best = 0, best_cross = 0;
  for (size_t p = start; p < start + size; p++) {
    if (!(row->rise[p] > 0)) continue;
    double wp = row->w[p], sp = wp * row->c[p], own = wp * wp * espalier_gram_entry(gram, p, p);
    for (size_t u = start; u < start + size; u++) {
      double wu = row->w[u], slope = sp - wu * row->c[u];
      if (!(row->fall[u] > 0) || u == p || !(slope > 0)) continue;
      double cross = espalier_gram_entry(gram, p, u);
      double curve = own + wu * wu * espalier_gram_entry(gram, u, u) - 2 * wp * wu * cross;
      double most = row->rise[p] < row->fall[u] ? row->rise[p] : row->fall[u];
      double by = curve > 0 && slope / curve < most ? slope / curve : most;
      double gain = by * (2 * slope - by * curve);
      if (gain <= best) continue;
      best = gain;
      best_p = p;
      best_u = u;
      best_cross = cross;
    }
  }
  if (best_p == row->n) return 0;
  double to_p, from_u;
  move_mass(row, best_p, best_u, best_cross, &to_p, &from_u);
  if (to_p == 0 && from_u == 0) return 0;
  const float *gp = espalier_gram_row(gram, best_p, row->row_p), *gu = espalier_gram_row(gram, best_u, row->row_u);
  double by_u = row->w[best_u] * from_u, by_p = row->w[best_p] * to_p;
  for (size_t j = 0; j < row->n; j++) row->c[j] += by_u * gu[j] - by_p * gp[j];
  return 1;
}

BODY espalier_fw_end fw_group_pairs_body(size_t words, size_t padded, espalier_gram gram, const float *w, const uint64_t *frozen,
                                         size_t size, size_t keep, uint64_t limit, double tolerance, float *x, double *c,
                                         size_t scratch_count, float *scratch) {
  relaxed_row row = row_of(words, padded, &gram, w, frozen, x, c, scratch_count, scratch);
  espalier_fw_end end = {0, 0, 0};
  for (;;) {
    uint64_t before = end.steps;
    end.loss = relaxed_loss(&row);
    end.gap = 0;
    for (size_t start = 0; start < row.n; start += size) end.gap += group_gap(&row, frozen, start, size, keep);
    if (end.steps >= limit || end.gap <= tolerance * end.loss) return end;
    // Groups that are nearly done wait: a step costs the same in any group.
    double least = 0.5 * end.gap * (double)size / (double)row.n;
    for (size_t start = 0; start < row.n; start += size)
      for (size_t tried = 0; tried < 2 * size && end.steps < limit; tried++) {
        if (group_gap(&row, frozen, start, size, keep) <= least || !step_in_group(&row, start, size)) break;
        end.steps++;
      }
    if (end.steps == before) return end;
  }
}
TIERS(espalier_fw_end, fw_group_pairs,
      (size_t words, size_t padded, espalier_gram gram, const float *w, const uint64_t *frozen, size_t size, size_t keep,
       uint64_t limit, double tolerance, float *x, double *c, size_t scratch_count, float *scratch),
      (words, padded, gram, w, frozen, size, keep, limit, tolerance, x, c, scratch_count, scratch))

// ---- Steps of single entries at a price of mass, for budgets that many rows share.

// c -= by G_j; the entry whose best step at the price gains most, and what it gains.
BODY best_entry move_one(const relaxed_row *row, double by, const float *gj, float price) {
  f32x16 most = all16(0);
  i32x16 at = 0;
  for (size_t i = 0; i < row->padded; i += 16) {
    f64x8 low = load_f64x8(row->c + i), high = load_f64x8(row->c + i + 8);
    if (gj) {
      f32x16 g = load_up_to16(i < row->n ? row->n - i : 0, gj + i);
      low -= by * widen8(g.lo);
      high -= by * widen8(g.hi);
      store_f64x8(row->c + i, low);
      store_f64x8(row->c + i + 8, high);
    }
    f32x16 slope = load16(row->free + i) * narrow16(low, high) - price;
    f32x16 curve = __builtin_elementwise_max(load16(row->square + i), all16(1e-30f));
    f32x16 step = __builtin_elementwise_max(__builtin_elementwise_min(slope / curve, load16(row->rise + i)), -load16(row->fall + i));
    f32x16 gain = step * (slope + slope - step * curve);
    i32x16 larger = gain > most;
    most = larger ? gain : most;
    at = larger ? (i32x16)((int32_t)i) : at;
  }
  float largest = largest16(most);
  return (best_entry){place_of_largest(most, at, largest), largest};
}

BODY espalier_fw_end fw_priced_body(size_t words, size_t padded, espalier_gram gram, const float *w, const uint64_t *frozen,
                                    float price, uint64_t limit, double tolerance, float *x, double *c, size_t scratch_count,
                                    float *scratch) {
  relaxed_row row = row_of(words, padded, &gram, w, frozen, x, c, scratch_count, scratch);
  espalier_fw_end end = {0, 0, 0};
  uint64_t pause = row.n / 4 + 1;
  best_entry best = move_one(&row, 0, 0, price);
  for (;; end.steps++) {
    int last = end.steps >= limit || !(best.value > 0);
    if (end.steps % pause == 0 || last) {
      end.loss = relaxed_loss(&row);
      end.gap = gap_at_price(&row, price);
      if (last || end.gap <= tolerance * end.loss) return end;
    }
    size_t j = best.index;
    double curve = (double)w[j] * w[j] * espalier_gram_entry(&gram, j, j), slope = (double)w[j] * c[j] - price, was = x[j];
    double to = curve > 0 ? was + slope / curve : slope > 0;
    set_relaxed(&row, j, to > 1 ? 1 : to < 0 ? 0 : (float)to);
    if (x[j] == was) {
      // Nothing moves any more in f32.
      limit = end.steps--;
      continue;
    }
    best = move_one(&row, w[j] * (x[j] - was), espalier_gram_row(&gram, j, row.row_p), price);
  }
}
TIERS(espalier_fw_end, fw_priced,
      (size_t words, size_t padded, espalier_gram gram, const float *w, const uint64_t *frozen, float price, uint64_t limit,
       double tolerance, float *x, double *c, size_t scratch_count, float *scratch),
      (words, padded, gram, w, frozen, price, limit, tolerance, x, c, scratch_count, scratch))
