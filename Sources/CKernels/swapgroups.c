// The best move within any group of a row, again and again: a swap of a kept and a pruned weight, or a whole new pattern (SparseSwaps,
// arXiv 2512.10922).
//
// Swaps. y_j is the change of the loss from flipping weight j alone: y = +-2 w c + w^2 G_jj, + if it is kept. A swap of u and p changes
// the loss by y_u + y_p - 2 w_u w_p G_up. So the search is for the least y_i + y_j + x_ij of all pairs of a group, with
// x_ij = -2 w_i w_j G_ij if one of the two is kept, and infinite otherwise.
//
// Whole groups. With c' the correlations without the group's own part and y = 2 w c' + w^2 G_jj, pruning the set S of a group costs
// V(S) = the sum of y over S + the sum x_S of 2 w_i w_j G_ij over the pairs of S. x_S never changes, and y does not change by moves
// of its own group. A move changes the loss by V(S) - V(S now). If fewer weights are kept than pruned, y has the other sign and its
// sums are over the kept weights: V changes only by the sum of all y of the group, which is the same for every S.
//
// y is in f64. The search uses lower bounds in f32 of eight groups side by side; groups whose bound is not above the best change are
// then computed in f64, so that the moves are those of a full search in f64.

#include "search.h"

#include <string.h>

enum { WIDTH = 8 };

#define UNROLL _Pragma("clang loop unroll_count(8)")

// What a move may do within a group.
typedef struct {
  uint32_t of, keep;
  // A bit for every weight of a group.
  uint32_t all;
  uint32_t whole;
  // Values that are compared for each group: of its pairs of weights, or of its patterns.
  uint32_t count;
  // Whole groups: a pattern is given by the weights that it prunes, or by those that it keeps if these are fewer (by_kept). The sum
  // of y over them is made of `parts` sums of one or two weights each, whose indices are in `sums`.
  uint32_t by_kept, parts;
  uint16_t sums[ESPALIER_MOST_PATTERNS][4];
  // Bit i is set if the pattern keeps weight i of the group.
  uint32_t masks[ESPALIER_MOST_PATTERNS];
  // The lane of each of eight groups in vectors, and the group of each lane.
  uint8_t place[WIDTH], placed[WIDTH];
} group_plan;

typedef struct {
  const float *w;
  uint8_t *kept;
  size_t groups;
  // `scale` is what the least gain is a share of; 0 if it is the loss.
  double loss, scale, *y;
  // y += t * (change of c): 2 w with the sign of y.
  float *t;
  // x of every value: [eight groups][value][group].
  float *x;
  // The least bound of every group.
  float *low;
  // Whole groups: 1 for the weights whose y are summed, as [eight groups][weight][group]; upper bounds of x_S now.
  float *chosen, *now;
  // Space for two rows of G, zeros at first, and for the ends of two rows.
  float *made_rows, *tail;
  // Weights that the last move flipped, a pruned and a restored one alternately. Only the y of their own group include it yet.
  uint32_t flips, flipped[ESPALIER_LARGEST_GROUP];
  held_out held;
  int ended;
  espalier_swap_outcome outcome;
} group_state;

typedef struct {
  size_t group;
  // The weights u and p; the pattern.
  size_t u, p;
  double change;
} group_move;

static size_t whole_lanes(size_t count) { return (count + WIDTH - 1) / WIDTH * WIDTH; }

// ---- plan

// The even and the odd lanes of two vectors, in an order in which lanes stay in their half, which is fast.
BODY void part(f32x8 *x, f32x8 *y) {
  f32x8 a = *x, b = *y;
  *x = __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14);
  *y = __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}

BODY void deal_four(f32x8 *v) {
  part(&v[0], &v[1]);
  part(&v[2], &v[3]);
  part(&v[0], &v[2]);
  part(&v[1], &v[3]);
}

// Turns `of` vectors of consecutive weights of eight groups into one vector for each weight of a group. All of them have the groups
// in the same order.
BODY void deal(size_t of, f32x8 *v) {
  if (of == 2) part(&v[0], &v[1]);
  if (of == 4) deal_four(v);
  if (of == 8) {
    f32x8 low[4], high[4];
    UNROLL for (size_t k = 0; k < 4; k++) {
      low[k] = __builtin_shufflevector(v[k], v[k + 4], 0, 1, 2, 3, 8, 9, 10, 11);
      high[k] = __builtin_shufflevector(v[k], v[k + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    deal_four(low);
    deal_four(high);
    UNROLL for (size_t k = 0; k < 4; k++) v[k] = low[k], v[k + 4] = high[k];
  }
}

// The index of the sum of weights i <= j: first the weights, then their pairs, row after row.
static uint32_t sum_index(uint32_t of, uint32_t i, uint32_t j) {
  return i == j ? i : of + i * (2 * of - i - 1) / 2 + (j - i - 1);
}

// The number of weights that give a pattern.
static uint32_t chosen_of(const group_plan *plan) { return plan->by_kept ? plan->keep : plan->of - plan->keep; }

static void plan_groups(uint32_t of, uint32_t keep, int whole, group_plan *plan) {
  *plan = (group_plan){.of = of, .keep = keep, .whole = whole != 0, .by_kept = keep < of - keep};
  uint32_t chosen = chosen_of(plan);
  plan->all = (uint32_t)(((uint64_t)1 << of) - 1);
  plan->parts = (chosen + 1) / 2;
  f32x8 index[ESPALIER_LARGEST_GROUP];
  for (uint32_t k = 0; k < WIDTH * of; k++) index[k / WIDTH][k % WIDTH] = k;
  int dealt = of == 2 || of == 4 || of == 8;
  if (of == 2) deal(2, index);
  if (of == 4) deal(4, index);
  if (of == 8) deal(8, index);
  for (uint32_t k = 0; k < WIDTH; k++) {
    plan->placed[k] = (uint8_t)(dealt ? (uint32_t)index[0][k] / of : k);
    plan->place[plan->placed[k]] = (uint8_t)k;
  }
  if (!whole) plan->count = of * (of - 1) / 2;
  if (!whole || chosen == 0) return;
  // Every choice of weights; two of them in the order of pairs.
  uint32_t choice[ESPALIER_LARGEST_GROUP];
  for (uint32_t k = 0; k < chosen; k++) choice[k] = k;
  for (;;) {
    uint32_t bits = 0;
    for (uint32_t k = 0; k < chosen; k++) bits |= 1u << choice[k];
    for (uint32_t k = 0; k < chosen; k += 2)
      plan->sums[plan->count][k / 2] = (uint16_t)sum_index(of, choice[k], choice[k + 1 < chosen ? k + 1 : k]);
    plan->masks[plan->count++] = plan->by_kept ? bits : plan->all & ~bits;
    uint32_t k = chosen;
    while (k > 0 && choice[k - 1] == of - chosen + k - 1) k--;
    if (k == 0) return;
    choice[k - 1]++;
    for (; k < chosen; k++) choice[k] = choice[k - 1] + 1;
  }
}

// ---- one search

// y after c += wu gu - wp gp, for four weights.
BODY f64x4 moved(f64x4 y, const float *t, double wu, const float *gu, double wp, const float *gp) {
  return y + widen4(load4(t)) * (wu * widen4(load4(gu)) - wp * widen4(load4(gp)));
}

BODY f32x8 least_pattern(const group_plan *plan, size_t parts, const f32x8 *sums, const float *x) {
  f32x8 low = all8(INFINITY);
  for (size_t k = 0; k < plan->count; k++, x += WIDTH) {
    f32x8 value = sums[plan->sums[k][0]] + load8(x);
    UNROLL for (size_t part = 1; part < parts; part++) value += sums[plan->sums[k][part]];
    low = lesser8(low, value);
  }
  return low;
}

// Updates y by two rows of G, and bounds the best change of each group from the new y. Meanwhile the rows of G that the next row will
// read are prefetched. `of` is a constant in the fast copies of this body, for which `dealt` is 1.
BODY float sweep(const group_plan *plan, size_t of, int dealt, int whole, const group_state *s, size_t n, double wu,
                 const float *gu, double wp, const float *gp, const float *next_u, const float *next_p) {
  size_t count = plan->count, span = WIDTH * of;
  int by_pairs = !whole || chosen_of(plan) == 2;
  double *restrict ys = s->y;
  float *restrict lows = s->low;
  const float *restrict ts = s->t, *restrict xs = s->x, *restrict nows = s->now, *restrict choices = s->chosen;
  const float *restrict tail = s->tail;
  size_t groups = s->groups;
  f32x8 least = all8(INFINITY);
  for (size_t g = 0, j = 0; g < groups; g += WIDTH, j += span) {
    const float *restrict u = gu + j, *restrict p = gp + j;
    if (j + span > n) {
      u = tail, p = tail + span;
    } else if (next_u) {
      for (size_t k = 0; k < span; k += 16) {
        __builtin_prefetch(next_u + j + k, 0, 2);
        __builtin_prefetch(next_p + j + k, 0, 2);
      }
    }
    f32x8 v[ESPALIER_LARGEST_GROUP];
    float row[WIDTH * ESPALIER_LARGEST_GROUP];
    UNROLL for (size_t k = 0; k < of; k++) {
      size_t i = WIDTH * k;
      double *y = ys + j + i;
      f64x4 low_y = moved(*(f64x4 *)y, ts + j + i, wu, u + i, wp, p + i);
      f64x4 high_y = moved(*(f64x4 *)(y + 4), ts + j + i + 4, wu, u + i + 4, wp, p + i + 4);
      *(f64x4 *)y = low_y, *(f64x4 *)(y + 4) = high_y;
      if (dealt) v[k] = narrow8(low_y, high_y);
      else store8(row + i, narrow8(low_y, high_y));
    }
    if (dealt) deal(of, v);
    else
      for (size_t i = 0; i < of; i++)
        for (size_t l = 0; l < WIDTH; l++) v[i][l] = row[l * of + i];
    f32x8 now = 0;
    if (whole) {
      now = load8(nows + g);
      UNROLL for (size_t i = 0; i < of; i++)
        now += load8(choices + j + WIDTH * i) * (v[i] + ROUNDING * __builtin_elementwise_abs(v[i]));
    }
    UNROLL for (size_t i = 0; i < of; i++) v[i] -= ROUNDING * __builtin_elementwise_abs(v[i]);
    const float *restrict x = xs + g * count;
    f32x8 low = all8(INFINITY);
    if (by_pairs) {
      UNROLL for (size_t i = 0; i < of; i++) {
        UNROLL for (size_t l = i + 1; l < of; l++, x += WIDTH) low = lesser8(low, v[i] + v[l] + load8(x));
      }
    } else {
      f32x8 sums[ESPALIER_LARGEST_GROUP * (ESPALIER_LARGEST_GROUP + 1) / 2];
      for (size_t i = 0, k = of; i < of; i++) {
        sums[i] = v[i];
        for (size_t l = i + 1; l < of; l++, k++) sums[k] = v[i] + v[l];
      }
      switch (plan->parts) {
      case 1: low = least_pattern(plan, 1, sums, x); break;
      case 2: low = least_pattern(plan, 2, sums, x); break;
      case 3: low = least_pattern(plan, 3, sums, x); break;
      }
    }
    low -= now;
    store8(lows + g, low);
    least = lesser8(least, low);
  }
  float value = least[0];
  for (int k = 1; k < WIDTH; k++) value = least[k] < value ? least[k] : value;
  return value;
}

BODY float sweep_of(const group_plan *plan, const group_state *s, size_t n, double wu, const float *gu, double wp,
                    const float *gp, const float *next_u, const float *next_p) {
#define SWEEP(of, dealt, whole) sweep(plan, of, dealt, whole, s, n, wu, gu, wp, gp, next_u, next_p)
  switch (plan->of) {
  case 2: return plan->whole ? SWEEP(2, 1, 1) : SWEEP(2, 1, 0);
  case 4: return plan->whole ? SWEEP(4, 1, 1) : SWEEP(4, 1, 0);
  case 8: return plan->whole ? SWEEP(8, 1, 1) : SWEEP(8, 1, 0);
  default: return plan->whole ? SWEEP(plan->of, 0, 1) : SWEEP(plan->of, 0, 0);
  }
#undef SWEEP
}

// ---- decisions, in f64

static double pair_term(const group_plan *plan, const group_state *s, const float *blocks, size_t i, size_t j) {
  return 2.0 * s->w[i] * s->w[j] * blocks[i * plan->of + j % plan->of];
}

static group_move best_swap(const group_plan *plan, group_state *s, const float *blocks, size_t group,
                            group_move best) {
  const uint8_t *kept = s->kept;
  size_t start = group * plan->of, end = start + plan->of;
  for (size_t u = start; u < end; u++) {
    if (!kept[u]) continue;
    for (size_t p = start; p < end; p++) {
      if (kept[p]) continue;
      double change = s->y[u] + s->y[p] - pair_term(plan, s, blocks, u, p);
      // Groups come in ascending order, and so do u and p in them: of equals the first is taken.
      if (change < best.change) best = (group_move){group, u, p, change};
    }
  }
  s->outcome.evaluated += (uint64_t)plan->keep * (plan->of - plan->keep);
  return best;
}

static uint32_t mask_of(const group_plan *plan, const uint8_t *kept, size_t group) {
  uint32_t mask = 0;
  for (uint32_t i = 0; i < plan->of; i++) mask |= (uint32_t)kept[group * plan->of + i] << i;
  return mask;
}

// The sum of y over the weights that give a pattern.
static double own_sum(const group_plan *plan, const group_state *s, size_t group, uint32_t mask) {
  double sum = 0;
  const double *y = s->y + group * plan->of;
  for (uint32_t bits = plan->by_kept ? mask : ~mask & plan->all; bits; bits &= bits - 1) sum += y[__builtin_ctz(bits)];
  return sum;
}

// x_S of a pattern, and the sum of the magnitudes of its terms.
static double pair_sum(const group_plan *plan, const group_state *s, const float *blocks, size_t group, uint32_t mask,
                       double *magnitude) {
  double sum = 0, most = 0;
  size_t start = group * plan->of;
  for (uint32_t left = ~mask & plan->all; left; left &= left - 1) {
    for (uint32_t right = left & (left - 1); right; right &= right - 1) {
      double term = pair_term(plan, s, blocks, start + (size_t)__builtin_ctz(left), start + (size_t)__builtin_ctz(right));
      sum += term;
      most += fabs(term);
    }
  }
  *magnitude = most;
  return sum;
}

static group_move best_pattern(const group_plan *plan, group_state *s, const float *blocks, size_t group,
                               group_move best) {
  uint32_t mask = mask_of(plan, s->kept, group);
  double magnitude, now = own_sum(plan, s, group, mask) + pair_sum(plan, s, blocks, group, mask, &magnitude);
  const float *x = s->x + group / WIDTH * WIDTH * plan->count + plan->place[group % WIDTH];
  for (uint32_t k = 0; k < plan->count; k++) {
    if (plan->masks[k] == mask) continue;
    double own = own_sum(plan, s, group, plan->masks[k]);
    if (own + x[WIDTH * k] - now > best.change) continue;
    double change = own + pair_sum(plan, s, blocks, group, plan->masks[k], &magnitude) - now;
    s->outcome.evaluated++;
    if (change < best.change || (change == best.change && group == best.group && plan->masks[k] < plan->masks[best.p]))
      best = (group_move){group, 0, k, change};
  }
  return best;
}

BODY group_move best_of_group(const group_plan *plan, group_state *s, const float *blocks, size_t group,
                              group_move best) {
  return plan->whole ? best_pattern(plan, s, blocks, group, best) : best_swap(plan, s, blocks, group, best);
}

// Whether one of `vectors` vectors of bounds has one that is not above `limit`.
BODY int any_within(const float *low, size_t vectors, float limit) {
  i32x8 within = 0;
  int any = 0;
  for (size_t k = 0; k < vectors; k++) within |= load8(low + k * WIDTH) <= limit;
  for (int k = 0; k < WIDTH; k++) any |= within[k];
  return any;
}

// The first eight groups from `start` on with a bound that is not above `limit`; the end if there are none.
BODY size_t next_within(const group_state *s, size_t start, float limit) {
  size_t g = start;
  while (g + 4 * WIDTH <= s->groups && !any_within(s->low + g, 4, limit)) g += 4 * WIDTH;
  while (g < s->groups && !any_within(s->low + g, 1, limit)) g += WIDTH;
  return g;
}

// The best move of the row, given the least bound.
BODY group_move best_move(const group_plan *plan, group_state *s, const float *blocks, float least) {
  const group_move none = {0, 0, 0, INFINITY};
  if (!(least < INFINITY)) return none;
  // The change of a group with the least bound limits the bounds of the others.
  size_t first = next_within(s, 0, least), lane = 0;
  while (s->low[first + lane] > least) lane++;
  float limit = upper(best_of_group(plan, s, blocks, first + plan->placed[lane], none).change);
  group_move best = none;
  for (size_t g = next_within(s, 0, limit); g < s->groups; g = next_within(s, g + WIDTH, limit)) {
    for (size_t k = 0; k < WIDTH; k++)
      if (s->low[g + plan->place[k]] <= limit) best = best_of_group(plan, s, blocks, g + k, best);
  }
  return best;
}

// ---- a row

// x of the pairs of a group: infinite if a pair is no swap.
static void pack_swaps(const group_plan *plan, const group_state *s, const float *blocks, size_t group) {
  float *x = s->x + group / WIDTH * WIDTH * plan->count + plan->place[group % WIDTH];
  const uint8_t *kept = s->kept;
  size_t end = (group + 1) * plan->of;
  for (size_t i = group * plan->of; i < end; i++) {
    for (size_t j = i + 1; j < end; j++, x += WIDTH) {
      float term = (float)pair_term(plan, s, blocks, i, j);
      *x = kept[i] == kept[j] ? INFINITY : -term - fabsf(term) * ROUNDING;
    }
  }
}

// x of the patterns of eight groups.
BODY void pack_patterns(const group_plan *plan, const group_state *s, const float *blocks, size_t n, size_t first) {
  f32x8 pairs[ESPALIER_LARGEST_GROUP * (ESPALIER_LARGEST_GROUP - 1) / 2];
  size_t of = plan->of, k = 0;
  for (size_t i = 0; i < of; i++) {
    for (size_t j = i + 1; j < of; j++, k++) {
      for (size_t l = 0; l < WIDTH; l++) {
        size_t start = (first + plan->placed[l]) * of;
        pairs[k][l] = start < n ? (float)pair_term(plan, s, blocks, start + i, start + j) : 0;
      }
    }
  }
  for (size_t m = 0; m < plan->count; m++) {
    f32x8 sum = 0, most = 0;
    for (uint32_t left = ~plan->masks[m] & plan->all; left; left &= left - 1) {
      for (uint32_t right = left & (left - 1); right; right &= right - 1) {
        f32x8 term = pairs[sum_index(plan->of, (uint32_t)__builtin_ctz(left), (uint32_t)__builtin_ctz(right)) - of];
        sum += term;
        most += __builtin_elementwise_abs(term);
      }
    }
    for (size_t l = 0; l < WIDTH; l++)
      if ((first + plan->placed[l]) * of >= n) sum[l] = INFINITY;
    store8(s->x + first * plan->count + WIDTH * m, sum - most * (2 * ROUNDING));
  }
}

static size_t place_of(const group_plan *plan, size_t group) {
  return group / WIDTH * WIDTH + plan->place[group % WIDTH];
}

// The value of the group's own pattern, which the others are compared with.
static void pack_now(const group_plan *plan, const group_state *s, const float *blocks, size_t group) {
  uint32_t mask = mask_of(plan, s->kept, group);
  double magnitude, sum = pair_sum(plan, s, blocks, group, mask, &magnitude);
  s->now[place_of(plan, group)] = (float)sum + (float)magnitude * 2 * ROUNDING;
  float *chosen = s->chosen + group / WIDTH * WIDTH * plan->of + plan->place[group % WIDTH];
  for (uint32_t i = 0; i < plan->of; i++) chosen[WIDTH * i] = (mask >> i & 1) == plan->by_kept;
}

BODY void begin(const group_plan *plan, group_state *s, const float *blocks, size_t n, const double *c) {
  const float *w = s->w;
  const uint8_t *kept = s->kept;
  size_t of = plan->of;
  s->loss = 0;
  for (size_t j = 0; j < n; j++) {
    const float *g = blocks + j * of;
    double other = c[j], square = (double)w[j] * w[j] * g[j % of];
    if (!kept[j]) s->loss += w[j] * c[j];
    if (plan->whole) {
      size_t start = j - j % of;
      for (size_t k = 0; k < of; k++) other -= kept[start + k] ? 0 : (double)w[start + k] * g[k];
      s->t[j] = plan->by_kept ? -2 * w[j] : 2 * w[j];
      s->y[j] = s->t[j] * other + (plan->by_kept ? -square : square);
    } else {
      s->t[j] = kept[j] ? 2 * w[j] : -2 * w[j];
      s->y[j] = s->t[j] * other + square;
    }
  }
  for (size_t j = n; j < s->groups * of; j++) s->y[j] = s->t[j] = 0;
  if (plan->whole) {
    for (size_t g = 0; g < s->groups; g += WIDTH) pack_patterns(plan, s, blocks, n, g);
    for (size_t g = 0; g < s->groups; g++) {
      if (g < n / of) pack_now(plan, s, blocks, g);
      else s->now[place_of(plan, g)] = 0;
    }
  } else {
    for (size_t k = 0; k < s->groups * plan->count; k++) s->x[k] = INFINITY;
    for (size_t g = 0; g < n / of; g++) pack_swaps(plan, s, blocks, g);
  }
}

// Updates y by the last move; returns the least bound of the change of all groups.
BODY float update(const espalier_gram *gram, const group_plan *plan, const group_state *s, const group_state *next) {
  const float *w = s->w;
  size_t n = gram->n, whole_end = n / (WIDTH * plan->of) * (WIDTH * plan->of), span = WIDTH * plan->of;
  const float *next_u = NULL, *next_p = NULL;
  if (gram->elements && next->flips) {
    next_u = gram->elements + next->flipped[0] * n;
    next_p = gram->elements + next->flipped[1] * n;
  }
  // The y of the last move's own group already include it.
  float *own = s->t + (s->flips ? s->flipped[0] / plan->of * plan->of : 0), saved[ESPALIER_LARGEST_GROUP];
  memcpy(saved, own, plan->of * sizeof(float));
  memset(own, 0, s->flips ? plan->of * sizeof(float) : 0);
  float least = INFINITY;
  for (size_t k = 0; k == 0 || k < s->flips; k += 2) {
    double wu = 0, wp = 0;
    const float *gu = s->made_rows, *gp = s->made_rows;
    if (s->flips) {
      size_t u = s->flipped[k], p = s->flipped[k + 1];
      wu = w[u], wp = w[p];
      gu = espalier_gram_row(gram, u, s->made_rows);
      gp = espalier_gram_row(gram, p, s->made_rows + n);
    }
    if (k + 2 < s->flips) {
      size_t j = 0;
      for (; j + 4 <= n; j += 4) *(f64x4 *)(s->y + j) = moved(*(f64x4 *)(s->y + j), s->t + j, wu, gu + j, wp, gp + j);
      for (; j < n; j++) s->y[j] += s->t[j] * (wu * gu[j] - wp * gp[j]);
      continue;
    }
    memcpy(s->tail, gu + whole_end, (n - whole_end) * sizeof(float));
    memcpy(s->tail + span, gp + whole_end, (n - whole_end) * sizeof(float));
    least = sweep_of(plan, s, n, wu, gu, wp, gp, next_u, next_p);
  }
  memcpy(own, saved, plan->of * sizeof(float));
  return least;
}

static void apply(const group_plan *plan, group_state *s, const float *blocks, group_move move) {
  size_t start = move.group * plan->of;
  s->loss += move.change;
  s->outcome.moves++;
  if (!plan->whole) {
    size_t flipped[2] = {move.u, move.p};
    for (int k = 0; k < 2; k++) {
      size_t j = flipped[k];
      double wj = s->w[j];
      s->y[j] = 2 * wj * wj * blocks[j * plan->of + j % plan->of] - s->y[j];
      s->t[j] = -s->t[j];
      s->kept[j] ^= 1;
      s->flipped[k] = (uint32_t)j;
    }
    s->flips = 2;
    const float *gu = blocks + move.u * plan->of, *gp = blocks + move.p * plan->of;
    for (size_t k = 0; k < plan->of; k++)
      s->y[start + k] += s->t[start + k] * ((double)s->w[move.u] * gu[k] - (double)s->w[move.p] * gp[k]);
    pack_swaps(plan, s, blocks, move.group);
    return;
  }
  uint32_t before = mask_of(plan, s->kept, move.group), after = plan->masks[move.p];
  s->flips = 0;
  for (uint32_t u = before & ~after, p = after & ~before; u; u &= u - 1, p &= p - 1) {
    s->flipped[s->flips++] = (uint32_t)(start + (size_t)__builtin_ctz(u));
    s->flipped[s->flips++] = (uint32_t)(start + (size_t)__builtin_ctz(p));
  }
  for (uint32_t k = 0; k < s->flips; k++) s->kept[s->flipped[k]] ^= 1;
  pack_now(plan, s, blocks, move.group);
}

// One move, or the end of the row.
BODY void step(const espalier_gram *gram, const group_plan *plan, const float *blocks, uint64_t limit, group_state *s,
               const group_state *next) {
  s->outcome.limited = s->outcome.moves >= limit;
  s->ended = 1;
  if (!s->outcome.limited) {
    group_move best = best_move(plan, s, blocks, update(gram, plan, s, next));
    uint64_t each = plan->whole ? plan->count - 1 : (uint64_t)plan->keep * (plan->of - plan->keep);
    s->outcome.choices += gram->n / plan->of * each;
    if (best.change < -LEAST_GAIN * (s->scale > 0 ? s->scale : fabs(s->loss))) {
      apply(plan, s, blocks, best);
      s->outcome.stopped = !espalier_held_out_move(&s->held, s->w, s->kept, s->flips, s->flipped, s->loss);
      s->ended = s->outcome.stopped != 0;
    }
  }
  // So that the other row does not prefetch for this one.
  if (s->ended) s->flips = 0;
}

// Floats that a row needs beside y.
static size_t floats_of(size_t n, size_t groups, const group_plan *plan) {
  return 2 * groups * plan->of + groups * (plan->count + 2) + 2 * WIDTH * plan->of + 2 * n;
}

static size_t scratch_of(size_t n, const group_plan *plan) {
  size_t groups = whole_lanes(n / plan->of);
  return whole_lines(groups * plan->of * sizeof(double) + floats_of(n, groups, plan) * sizeof(float));
}

size_t espalier_group_scratch(size_t n, uint32_t of, uint32_t keep, int whole, int has_held) {
  group_plan plan;
  plan_groups(of, keep, whole, &plan);
  return scratch_of(n, &plan) + (has_held ? espalier_held_out_scratch(n) : 0);
}

BODY void search_groups_body(const group_plan *plan, const float *blocks, const given_rows *given) {
  size_t n = given->gram->n, groups = whole_lanes(n / plan->of), padded = groups * plan->of, used = scratch_of(n, plan);
  size_t bytes = used + (given->held ? espalier_held_out_scratch(n) : 0), left = 0;
  group_state states[2];
  for (size_t r = 0; r < given->count; r++) {
    group_state *s = &states[r];
    uint8_t *scratch = given->scratch + r * bytes;
    *s = (group_state){.w = given->w + r * n, .kept = given->kept + r * n, .groups = groups, .y = (double *)scratch};
    s->t = (float *)(s->y + padded);
    s->chosen = s->t + padded;
    s->x = s->chosen + padded;
    s->low = s->x + groups * plan->count;
    s->now = s->low + groups;
    s->tail = s->now + groups;
    s->made_rows = s->tail + 2 * WIDTH * plan->of;
    memset(s->t, 0, floats_of(n, groups, plan) * sizeof(float));
    begin(plan, s, blocks, n, given->c + r * n);
    s->scale = given->starts[r].scale;
    s->outcome.before = s->loss += given->starts[r].extra;
    if (given->held)
      espalier_held_out_begin(&s->held, given->held, given->held_c + r * n, s->w, s->kept, given->starts[r].held_extra, s->loss,
                              scratch + used);
    s->outcome.held_before = s->held.now;
    s->ended = plan->count == 0 || plan->keep == 0 || plan->keep == plan->of;
    left += !s->ended;
  }
  while (left > 0)
    for (size_t r = 0; r < given->count; r++) {
      if (states[r].ended) continue;
      step(given->gram, plan, blocks, given->limit, &states[r], &states[given->count - 1 - r]);
      left -= (size_t)states[r].ended;
    }
  for (size_t r = 0; r < given->count; r++) {
    group_state *s = &states[r];
    s->outcome.after = s->loss;
    espalier_held_out_end(&s->held, s->kept, &s->outcome);
    given->outcomes[r] = s->outcome;
  }
}
TIERS(void, search_groups, (const group_plan *plan, const float *blocks, const given_rows *given), (plan, blocks, given))

void espalier_group_search(espalier_gram gram, uint32_t of, uint32_t keep, int whole, size_t block_values, const float *blocks,
                           uint64_t limit, size_t values, const float *w, uint8_t *kept, const double *c, espalier_gram held,
                           size_t held_values, const double *held_c, size_t scratch_bytes, uint8_t *scratch, size_t rows,
                           const espalier_swap_start *starts, espalier_swap_outcome *outcomes) {
  (void)block_values, (void)values, (void)held_values, (void)scratch_bytes;
  group_plan plan;
  plan_groups(of, keep, whole, &plan);
  given_rows given = {&gram, held.n ? &held : 0, limit, rows, w, kept, c, held_c, scratch, starts, outcomes};
  espalier_search_groups(&plan, blocks, &given);
}
