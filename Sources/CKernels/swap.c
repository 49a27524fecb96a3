// The best exchange of a kept weight u and a pruned weight p of one row, again and again (SparseSwaps, arXiv 2512.10922).
//
// The change of the loss is  a_u + b_p - 2 w_u w_p G_up  with  a_u = 2 w_u c_u + w_u^2 G_uu  and  b_p = -2 w_p c_p + w_p^2 G_pp.
// With s_j = |w_j| sqrt(G_jj) and r_j = the largest |correlation| of channel j with another, both by Cauchy-Schwarz,
//
//     2 w_u w_p G_up  <=  min(x_u s_p, x_p s_u)      x_j = 2 s_j r_j
//
// so that b_p + h(x_p), h(x) = min over u of a_u - x s_u, bounds every pair of p from below, and a_u + h'(x_u), defined alike, every pair of u.
// Both h are concave, and so above the chords between their values at a few slopes.
//
// Each swap makes two passes over the row. The first updates c and computes h and h' at the slopes. The second finds the channels
// whose bound is not above the change of a known pair, the best of those that were good at earlier swaps. Only these channels are
// paired, and G is read only for pairs whose own bound passes.
//
// Bounds include the rounding of f32. What decides is computed in f64 without contractions, and ties go to the lower u, then the lower
// p: on every instruction set the swaps are those of a full search in f64.

#include "search.h"

#include <string.h>

enum {
  WIDTH = 16,
  // Slopes at which h is computed over a whole row, and over the few channels that are left.
  SLOPES = 4,
  FINE = 12,
  RECENT = 64,
  AT_ONCE = 48
};

typedef struct {
  size_t u, p;
  double change;
} exchange;

// Channels of one side that may be in the best pair.
typedef struct {
  size_t count;
  uint32_t *index;
  // a or b: exact, and a lower bound in f32.
  double *exact;
  float *low, *s, *x;
} shortlist;

// h or h' at slopes, and the lines through neighbouring points of it: base + rise x.
typedef struct {
  float at[FINE];
} envelope;

typedef struct {
  float base[FINE], rise[FINE];
} chords;

// A pair and its G.
typedef struct {
  uint32_t u, p;
  double g;
} entry;

// What the search knows of every channel; see swap.h.
typedef struct {
  const double *diagonal;
  const float *norms, *largest;
} channels;

typedef struct {
  const espalier_gram *gram;
  size_t n, kept_count;
  const float *w;
  const double *diagonal;
  double *c;
  // All padded. `twice` is 2 w if kept and -2 w if pruned, so that a or b is s^2 + twice c; `low` is a lower bound of it.
  uint8_t *kept;
  float *twice, *s, *x, *low;
  float slopes[SLOPES], fine[FINE], largest_s;
  // Two for every run: of its kept, and of its pruned weights.
  envelope *envelopes;
  shortlist kept_list, pruned_list;
  // Space for rows of G that are made from a factor.
  float *made_u, *made_p;
  // Pairs that were good at earlier swaps.
  entry recent[RECENT];
  size_t recents;
  // The update that the last swap leaves to do: c += wu gu - wp gp.
  double wu, wp;
  const float *gu, *gp;
  // `scale` is what the least gain is a share of; 0 if it is the loss.
  double loss, scale;
  held_out held;
  int ended;
  espalier_swap_outcome outcome;
} search_state;

// a_j of a kept j, b_j of a pruned one.
BODY double exact_value(const search_state *row, size_t j) {
#pragma clang fp contract(off)
  double w = row->w[j], cross = 2 * w * row->c[j];
  return w * w * row->diagonal[j] + (row->kept[j] ? cross : -cross);
}

BODY double exact_change(double a, double b, double wu, double wp, double g) {
#pragma clang fp contract(off)
  return a + b - 2 * wu * wp * g;
}

BODY exchange better(exchange best, size_t u, size_t p, double change) {
  if (change > best.change || (change == best.change && (u > best.u || (u == best.u && p >= best.p)))) return best;
  return (exchange){u, p, change};
}

// The least of the lanes, minus the rounding of h.
BODY envelope envelope_of(const search_state *row, int count, const float *slopes, const f32x16 *minima) {
  envelope h;
  for (int k = 0; k < count; k++) {
    float value = __builtin_reduce_min(minima[k]);
    h.at[k] = value - ROUNDING * (fabsf(value) + 2 * slopes[k] * row->largest_s);
  }
  return h;
}

// What one step of an update reads and writes; `restrict`, so that nothing is loaded again after a store.
typedef struct {
  double *restrict c;
  const float *restrict twice, *restrict s;
  float *restrict low;
  const uint8_t *restrict kept;
  double wu, wp;
  f32x16 slopes[SLOPES];
} updated;

typedef struct {
  f32x16 kept[SLOPES], pruned[SLOPES];
} minima;

// c += wu gu - wp gp, the new bounds, and the envelopes with these channels; gu and gp point at element i.
BODY void update_lanes(const updated *row, size_t i, i32x16 inside, const float *gu, const float *gp, minima *m) {
  f64x16 *c = (f64x16 *)(row->c + i);
  f64x16 up = widen16(load16(gu)), down = widen16(load16(gp));
  f64x16 next = *c + (row->wu * up - row->wp * down);
  *c = next;
  f32x16 s = load16(row->s + i), product = load16(row->twice + i) * __builtin_convertvector(next, f32x16);
  f32x16 low = s * s * (1 - 2 * ROUNDING) + (product - ROUNDING * __builtin_elementwise_abs(product));
  store16(row->low + i, low);
  i32x16 kept = kept16(row->kept + i);
  f32x16 a = kept & inside ? low : all16(INFINITY), b = kept | ~inside ? all16(INFINITY) : low;
#pragma clang loop unroll(full)
  for (int k = 0; k < SLOPES; k++) {
    // Two products cost less than one product and a selection.
    m->kept[k] = lesser16(k == 0 ? a : a - row->slopes[k] * s, m->kept[k]);
    m->pruned[k] = lesser16(k == 0 ? b : b - row->slopes[k] * s, m->pruned[k]);
  }
}

// Updates the run [start, end), and computes its envelopes. Meanwhile the rows of G that the `next` row will read are prefetched.
BODY void update(const search_state *row, const search_state *next, size_t start, size_t end, envelope *kept, envelope *pruned) {
  const float *gu = row->gu, *gp = row->gp, *next_u = next->gu, *next_p = next->gp;
  updated lines = {row->c, row->twice, row->s, row->low, row->kept, row->wu, row->wp, {}};
  minima m;
  for (int k = 0; k < SLOPES; k++) {
    lines.slopes[k] = all16(row->slopes[k]);
    m.kept[k] = m.pruned[k] = all16(INFINITY);
  }
  size_t i = start;
  for (; i + WIDTH <= end; i += WIDTH) {
    __builtin_prefetch(next_u + i, 0, 2);
    __builtin_prefetch(next_p + i, 0, 2);
    update_lanes(&lines, i, (i32x16)(-1), gu + i, gp + i, &m);
  }
  if (i < end) {
    // Zeros leave the next run unchanged.
    float last_u[WIDTH] = {0}, last_p[WIDTH] = {0};
    memcpy(last_u, gu + i, (end - i) * sizeof(float));
    memcpy(last_p, gp + i, (end - i) * sizeof(float));
    update_lanes(&lines, i, first16(end - i), last_u, last_p, &m);
  }
  *kept = envelope_of(row, SLOPES, row->slopes, m.kept);
  *pruned = envelope_of(row, SLOPES, row->slopes, m.pruned);
}

BODY chords chords_of(int count, const float *slopes, const envelope *h) {
  chords lines;
  for (int k = 0; k + 1 < count; k++) {
    float width = slopes[k + 1] - slopes[k];
    lines.rise[k] = width > 0 ? (h->at[k + 1] - h->at[k]) / width : 0;
    float base = width > 0 ? h->at[k] - lines.rise[k] * slopes[k] : fminf(h->at[k], h->at[k + 1]);
    lines.base[k] = base - 8 * ROUNDING * (fabsf(h->at[k]) + fabsf(h->at[k + 1]));
  }
  return lines;
}

// A lower bound of h at x.
BODY f32x16 least_chord(int count, const chords *lines, f32x16 x) {
  f32x16 value = lines->base[0] + lines->rise[0] * x;
#pragma clang loop unroll(full)
  for (int k = 1; k + 1 < count; k++) value = lesser16(value, lines->base[k] + lines->rise[k] * x);
  return value;
}

// Fills the last lanes of a list with channels that are in no pair.
BODY void pad(shortlist *list) {
  for (size_t k = list->count; k % WIDTH != 0; k++) {
    list->low[k] = INFINITY;
    list->s[k] = list->x[k] = 0;
  }
}

// Appends the indices, counted from `first_index`, of the bits that are set; returns the new count.
BODY size_t spread(uint64_t bits, size_t first_index, size_t count, uint32_t *index) {
  for (; bits != 0; bits &= bits - 1) index[count++] = (uint32_t)(first_index + (size_t)__builtin_ctzll(bits));
  return count;
}

// The values of the channels of a list.
BODY void fill(const search_state *row, shortlist *list) {
  for (size_t k = 0; k < list->count; k++) {
    size_t j = list->index[k];
    double value = exact_value(row, j);
    list->exact[k] = value;
    list->low[k] = (float)value - ROUNDING * fabsf((float)value);
    list->s[k] = row->s[j];
    list->x[k] = row->x[j];
  }
  pad(list);
}

// The channels of the run [start, end) that may be in the best pair, given the envelopes.
BODY void gather(search_state *row, size_t start, size_t end, const envelope *kept, const envelope *pruned, float limit) {
  chords over_kept = chords_of(SLOPES, row->slopes, kept), over_pruned = chords_of(SLOPES, row->slopes, pruned);
  const float *xs = row->x, *lows = row->low;
  const uint8_t *sides = row->kept;
  size_t kept_count = 0, pruned_count = 0;
  for (size_t i = start; i < end; i += 64) {
    uint64_t found = 0, own = 0;
    for (size_t k = 0; k < 64 && i + k < end; k += WIDTH) {
      f32x16 x = load16(xs + i + k), low = load16(lows + i + k);
      i32x16 side = kept16(sides + i + k);
      f32x16 bound = low + (side ? least_chord(SLOPES, &over_pruned, x) : least_chord(SLOPES, &over_kept, x));
      found |= bits_of16((bound <= limit) & first16(end - i - k)) << k;
      own |= bits_of16(side) << k;
    }
    kept_count = spread(found & own, i, kept_count, row->kept_list.index);
    pruned_count = spread(found & ~own, i, pruned_count, row->pruned_list.index);
  }
  row->kept_list.count = kept_count;
  row->pruned_list.count = pruned_count;
  fill(row, &row->kept_list);
  fill(row, &row->pruned_list);
}

// Keeps only the channels of a list that may be in the best pair with one of the other list.
BODY void narrow_down(const search_state *row, shortlist *list, const shortlist *partners, float limit) {
  f32x16 minima[FINE];
  for (int k = 0; k < FINE; k++) minima[k] = all16(INFINITY);
  for (size_t i = 0; i < partners->count; i += WIDTH) {
    f32x16 low = load16(partners->low + i), s = load16(partners->s + i);
    for (int k = 0; k < FINE; k++) minima[k] = lesser16(low - row->fine[k] * s, minima[k]);
  }
  envelope h = envelope_of(row, FINE, row->fine, minima);
  chords lines = chords_of(FINE, row->fine, &h);
  size_t count = 0;
  for (size_t i = 0; i < list->count; i += WIDTH) {
    f32x16 bound = load16(list->low + i) + least_chord(FINE, &lines, load16(list->x + i));
    uint64_t bits = bits_of16(bound <= limit);
    for (; bits != 0; bits &= bits - 1) {
      size_t k = i + (size_t)__builtin_ctz(bits);
      list->index[count] = list->index[k];
      list->exact[count] = list->exact[k];
      list->low[count] = list->low[k];
      list->s[count] = list->s[k];
      list->x[count++] = list->x[k];
    }
  }
  list->count = count;
  pad(list);
}

// G_up.
BODY double element(const search_state *row, size_t u, size_t p) {
  const float *elements = row->gram->elements;
  return elements ? elements[u * row->n + p] : espalier_gram_entry(row->gram, u, p);
}

// The best of some pairs, given by their places in the lists, or `best`.
BODY exchange best_of(search_state *row, size_t count, const uint32_t (*pairs)[2], exchange best) {
  const shortlist *us = &row->kept_list, *ps = &row->pruned_list;
  for (size_t k = 0; k < count; k++) {
    size_t i = pairs[k][0], m = pairs[k][1], u = us->index[i], p = ps->index[m];
    double g = element(row, u, p);
    best = better(best, u, p, exact_change(us->exact[i], ps->exact[m], row->w[u], row->w[p], g));
    row->recent[row->recents++ % RECENT] = (entry){(uint32_t)u, (uint32_t)p, g};
  }
  row->outcome.evaluated += count;
  return best;
}

// The best pair of the two lists, or `best`.
BODY exchange pair(search_state *row, exchange best, float limit) {
  const shortlist *us = &row->kept_list, *ps = &row->pruned_list;
  // Elements of G come from memory, and are prefetched together.
  uint32_t passed[AT_ONCE + 64][2];
  size_t count = 0;
  for (size_t k = 0; k < us->count; k++) {
    const float *gu = row->gram->elements ? row->gram->elements + us->index[k] * row->n : 0;
    f32x16 a = all16(us->low[k]), su = all16(us->s[k]), xu = all16(us->x[k]);
    for (size_t i = 0; i < ps->count; i += 64) {
      uint64_t bits = 0;
      for (size_t m = i; m < i + 64 && m < ps->count; m += WIDTH) {
        f32x16 cross = lesser16(xu * load16(ps->s + m), load16(ps->x + m) * su) * (1 + ROUNDING);
        f32x16 sum = a + load16(ps->low + m);
        f32x16 bound = sum - cross - ROUNDING * (__builtin_elementwise_abs(sum) + cross);
        bits |= bits_of16(bound <= limit) << (m - i);
      }
      for (; bits != 0; bits &= bits - 1) {
        uint32_t m = (uint32_t)i + (uint32_t)__builtin_ctzll(bits);
        if (gu) __builtin_prefetch(gu + ps->index[m]);
        passed[count][0] = (uint32_t)k;
        passed[count++][1] = m;
      }
      if (count < AT_ONCE) continue;
      best = best_of(row, count, passed, best);
      limit = fminf(upper(best.change), limit);
      count = 0;
    }
  }
  return best_of(row, count, passed, best);
}

// The best of the pairs that were good at earlier swaps.
BODY exchange best_recent(search_state *row, exchange best) {
  size_t count = row->recents < RECENT ? row->recents : RECENT;
  for (size_t k = 0; k < count; k++) {
    size_t u = row->recent[k].u, p = row->recent[k].p;
    if (!row->kept[u] || row->kept[p]) continue;
    best = better(best, u, p, exact_change(exact_value(row, u), exact_value(row, p), row->w[u], row->w[p], row->recent[k].g));
    row->outcome.evaluated++;
  }
  return best;
}

// The best pair of the run [start, end), whose envelopes are given, or `best`.
BODY exchange search(search_state *row, size_t start, size_t end, const envelope *kept, const envelope *pruned, exchange best,
                     double stop) {
  float limit = upper(fmin(best.change, -stop));
  gather(row, start, end, kept, pruned, limit);
  // If many are left, closer slopes leave fewer of them.
  if (row->kept_list.count * row->pruned_list.count > 1024) {
    narrow_down(row, &row->pruned_list, &row->kept_list, limit);
    narrow_down(row, &row->kept_list, &row->pruned_list, limit);
  }
  return pair(row, best, limit);
}

// The channel of [start, end) with the least bound on one side.
BODY size_t lowest(const search_state *row, size_t start, size_t end, i32x16 side) {
  f32x16 least_low = all16(INFINITY);
  i32x16 where = (i32x16)(-1);
  i32x16 index = counting16() + (i32x16)(int32_t)start;
  for (size_t i = start; i < end; i += WIDTH) {
    f32x16 low = load16(row->low + i);
    i32x16 better = (low < least_low) & (kept16(row->kept + i) == side) & first16(end - i);
    least_low = better ? low : least_low;
    where = better ? index : where;
    index += WIDTH;
  }
  int k = 0;
  for (int m = 1; m < WIDTH; m++) k = least_low[m] < least_low[k] ? m : k;
  return (size_t)where[k];
}

// A pair that is likely to be good, to begin with: the least a and the least b of a run.
BODY exchange likely(search_state *row, size_t start, size_t end, exchange best) {
  size_t u = lowest(row, start, end, (i32x16)(-1)), p = lowest(row, start, end, (i32x16)(0));
  if (u == (size_t)-1 || p == (size_t)-1) return best;
  row->outcome.evaluated++;
  double g = element(row, u, p);
  return better(best, u, p, exact_change(exact_value(row, u), exact_value(row, p), row->w[u], row->w[p], g));
}

BODY void set_kept(search_state *row, size_t j, int kept) {
  row->kept[j] = (uint8_t)kept;
  row->twice[j] = kept ? 2 * row->w[j] : -2 * row->w[j];
}

// 0, and slopes up to the steepest, spaced by a ratio: most x are below their mean, a few far above it.
BODY void place_slopes(int count, float steepest, float mean, float *slopes) {
  float gentle = 0.5f * mean, ratio = gentle > 0 ? powf(steepest / gentle, 1 / (float)(count - 2)) : 1;
  slopes[0] = 0;
  slopes[count - 1] = steepest;
  for (int k = count - 2; k > 0; k--) slopes[k] = slopes[k + 1] / ratio;
}

// Lays the arrays of a row out in `scratch`, or only counts their bytes.
BODY size_t lay_out(search_state *row, size_t n, size_t span, uint8_t *scratch) {
  // The last lanes of a run go past its end, and a run may begin anywhere.
  size_t padded = (n + 2 * WIDTH - 1) / WIDTH * WIDTH, used = 0;
  // The widest elements first, so that all are aligned.
  struct {
    void *place;
    size_t bytes;
  } arrays[] = {{&row->c, padded * sizeof(double)},
                {&row->kept_list.exact, padded * sizeof(double)},
                {&row->pruned_list.exact, padded * sizeof(double)},
                {&row->twice, padded * sizeof(float)},
                {&row->s, padded * sizeof(float)},
                {&row->x, padded * sizeof(float)},
                {&row->low, padded * sizeof(float)},
                {&row->kept_list.low, padded * sizeof(float)},
                {&row->kept_list.s, padded * sizeof(float)},
                {&row->kept_list.x, padded * sizeof(float)},
                {&row->kept_list.index, padded * sizeof(uint32_t)},
                {&row->pruned_list.low, padded * sizeof(float)},
                {&row->pruned_list.s, padded * sizeof(float)},
                {&row->pruned_list.x, padded * sizeof(float)},
                {&row->pruned_list.index, padded * sizeof(uint32_t)},
                {&row->made_u, padded * sizeof(float)},
                {&row->made_p, padded * sizeof(float)},
                {&row->envelopes, 2 * (n / span) * sizeof(envelope)},
                {&row->kept, padded}};
  for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++) {
    if (scratch) memcpy(arrays[k].place, &(uint8_t *){scratch + used}, sizeof scratch);
    used += arrays[k].bytes;
  }
  used = whole_lines(used);
  if (scratch) memset(scratch, 0, used);
  return used;
}

size_t espalier_swap_scratch(size_t n, size_t span, int has_held) {
  return lay_out(&(search_state){0}, n, span, 0) + (has_held ? espalier_held_out_scratch(n) : 0);
}

// What is known of row r before its first swap.
BODY void begin(search_state *row, const channels *of, size_t span, const given_rows *given, size_t r, uint8_t *scratch) {
  size_t n = given->gram->n;
  *row = (search_state){.gram = given->gram, .n = n, .diagonal = of->diagonal, .w = given->w + r * n};
  size_t used = lay_out(row, n, span, scratch);
  memcpy(row->kept, given->kept + r * n, n);
  memcpy(row->c, given->c + r * n, n * sizeof(double));
  double sum = 0;
  float steepest = 0;
  for (size_t j = 0; j < n; j++) {
    row->twice[j] = row->kept[j] ? 2 * row->w[j] : -2 * row->w[j];
    row->s[j] = fabsf(row->w[j]) * of->norms[j];
    row->x[j] = 2 * row->s[j] * of->largest[j];
    row->largest_s = row->s[j] > row->largest_s ? row->s[j] : row->largest_s;
    steepest = row->x[j] > steepest ? row->x[j] : steepest;
    sum += row->x[j];
    row->kept_count += row->kept[j];
  }
  place_slopes(SLOPES, steepest, (float)(sum / (double)n), row->slopes);
  place_slopes(FINE, steepest, (float)(sum / (double)n), row->fine);
  row->scale = given->starts[r].scale;
  row->loss = row->outcome.before = espalier_row_loss(n, row->w, row->kept, row->c) + given->starts[r].extra;
  if (given->held)
    espalier_held_out_begin(&row->held, given->held, given->held_c + r * n, row->w, row->kept, given->starts[r].held_extra, row->loss,
                            scratch + used);
  row->outcome.held_before = row->held.now;
  row->gu = row->gp = espalier_gram_row(row->gram, 0, row->made_u);
}

// One swap; the row has ended if there is none to make, or none to look for any more.
BODY void step(search_state *row, const search_state *next, size_t span, uint64_t limit) {
  size_t n = row->n, runs = n / span;
  row->ended = 1;
  double scale = row->scale > 0 ? row->scale : row->loss;
  if (row->outcome.moves >= limit || !(scale > 0)) return;
  for (size_t run = 0; run < runs; run++)
    update(row, next, run * span, (run + 1) * span, &row->envelopes[2 * run], &row->envelopes[2 * run + 1]);
  double stop = LEAST_GAIN * scale;
  exchange best = best_recent(row, (exchange){n, n, INFINITY});
  for (size_t run = 0; run < runs && best.u == n; run++) best = likely(row, run * span, (run + 1) * span, best);
  for (size_t run = 0; run < runs; run++)
    best = search(row, run * span, (run + 1) * span, &row->envelopes[2 * run], &row->envelopes[2 * run + 1], best, stop);
  uint64_t kept_of_run = row->kept_count / runs;
  row->outcome.choices += runs * kept_of_run * (span - kept_of_run);
  if (best.u == n || !(best.change < -stop)) return;
  set_kept(row, best.u, 0);
  set_kept(row, best.p, 1);
  row->loss += best.change;
  row->outcome.moves++;
  uint32_t flipped[2] = {(uint32_t)best.u, (uint32_t)best.p};
  row->outcome.stopped = !espalier_held_out_move(&row->held, row->w, row->kept, 2, flipped, row->loss);
  row->ended = row->outcome.stopped != 0;
  row->wu = row->w[best.u], row->wp = row->w[best.p];
  row->gu = espalier_gram_row(row->gram, best.u, row->made_u);
  row->gp = espalier_gram_row(row->gram, best.p, row->made_p);
}

BODY void search_rows_body(const channels *of, size_t span, const given_rows *given) {
  search_state states[2];
  size_t n = given->gram->n, count = given->count, bytes = espalier_swap_scratch(n, span, given->held != 0);
  for (size_t r = 0; r < count; r++) begin(&states[r], of, span, given, r, given->scratch + r * bytes);
  for (size_t left = count; left > 0;)
    for (size_t r = 0; r < count; r++) {
      if (states[r].ended) continue;
      step(&states[r], &states[count - 1 - r], span, given->limit);
      left -= (size_t)states[r].ended;
    }
  for (size_t r = 0; r < count; r++) {
    search_state *row = &states[r];
    row->outcome.limited = row->outcome.moves >= given->limit;
    row->outcome.after = row->loss;
    espalier_held_out_end(&row->held, row->kept, &row->outcome);
    memcpy(given->kept + r * n, row->kept, n);
    given->outcomes[r] = row->outcome;
  }
}
TIERS(void, search_rows, (const channels *of, size_t span, const given_rows *given), (of, span, given))

void espalier_swap_search(espalier_gram gram, size_t n, const double *diagonal, const float *norms, const float *largest, size_t span,
                          uint64_t limit, size_t values, const float *w, uint8_t *kept, const double *c, espalier_gram held,
                          size_t held_values, const double *held_c, size_t scratch_bytes, uint8_t *scratch, size_t rows,
                          const espalier_swap_start *starts, espalier_swap_outcome *outcomes) {
  (void)n, (void)values, (void)held_values, (void)scratch_bytes;
  given_rows given = {&gram, held.n ? &held : 0, limit, rows, w, kept, c, held_c, scratch, starts, outcomes};
  espalier_search_rows(&(channels){diagonal, norms, largest}, span, &given);
}
