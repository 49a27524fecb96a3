#ifndef ESPALIER_FRANKWOLFE_H
#define ESPALIER_FRANKWOLFE_H

#include "counted.h"
#include "gram.h"

// Frank-Wolfe on relaxed masks (SparseFW, arXiv 2510.13713).
//
// The relaxed mask of a row is x, 0 <= x <= 1. With its weights w and the Gram matrix G, c = ((1 - x) . w) G and the scores s = w . c
// are half of the negative gradient of the loss. Each step goes towards a vertex v, a mask, whose product is
// cv = ((1 - v) . w) G.
//
// Rows are padded: `padded` is n rounded up to a multiple of 64, and w, x, c and s are zero from n on; cv has n
// values. Sets of entries of a row (the frozen entries, a vertex) have padded / 64 words of bits.

// ---- frankwolfe.c: the steps of rows, and the products that they need

enum {
  /// Rows of G that are read together.
  ESPALIER_FW_TILE = 256
};

/// An entry of the row that entered or left the vertex, and what its part of (1 - v) . w changed by.
typedef struct {
  uint32_t index;
  float value;
} espalier_fw_change;

typedef struct {
  /// ((1 - x) . w) c.
  double loss;
  /// The sum of s x.
  double inside;
} espalier_fw_sums;

/// A step of the length `eta` to the vertex: x += eta (v - x) and c += eta (cv - c). s becomes the scores, 0 where frozen.
espalier_fw_sums espalier_fw_step(size_t words, size_t padded, size_t n, float eta, const float *COUNTED(padded) w,
                                  const uint64_t *COUNTED(words) frozen, const uint64_t *COUNTED(words) vertex,
                                  const float *COUNTED(n) cv, float *COUNTED(padded) x, float *COUNTED(padded) c,
                                  float *COUNTED(padded) s);
/// s[i] = w[i] c[i], 0 where frozen.
void espalier_fw_scores(size_t words, size_t padded, const float *COUNTED(padded) w, const uint64_t *COUNTED(words) frozen,
                        const float *COUNTED(padded) c, float *COUNTED(padded) s);
/// ((1 - v) . w) cv: the loss at the vertex.
double espalier_fw_vertex_loss(size_t words, size_t padded, size_t n, const float *COUNTED(padded) w, const uint64_t *COUNTED(words) vertex,
                               const float *COUNTED(n) cv);
/// d = (1 - v) . w, n entries.
void espalier_fw_outside(size_t words, size_t padded, size_t n, const float *COUNTED(padded) w, const uint64_t *COUNTED(words) vertex,
                         float *COUNTED(n) d);

/// Replaces `vertex` by `next` and lists the changes in the order of their indices. starts[t] is the number of changes before tile t of
/// G, for all `tiles` and one more. Changes beyond `capacity` are counted but not listed. Returns how many there are.
size_t espalier_fw_changes(size_t words, size_t padded, const float *COUNTED(padded) w, const uint64_t *COUNTED(words) next,
                           uint64_t *COUNTED(words) vertex, size_t capacity, espalier_fw_change *COUNTED(capacity) changes,
                           size_t bounds, uint32_t *COUNTED(bounds) starts);
/// cv += changes G for all rows, in the columns first ..< first + width of n.
///
/// Every row has `capacity` places in `changes`, `tiles` + 1 in `starts` and n in `cv`. Tiles are read in the opposite order if
/// `backwards`.
void espalier_fw_apply(size_t n, size_t first, size_t width, int backwards, size_t elements, const float *COUNTED(elements) gram,
                       size_t capacity, size_t listed, const espalier_fw_change *COUNTED(listed) changes, size_t tiles, size_t bounds,
                       const uint32_t *COUNTED(bounds) starts, size_t products, float *COUNTED(products) cv);

// ---- fwvertex.c: the best vertices, given the scores

/// The least score that a row chose, and how far it may move until the next choice, as a share of it; zeros at first.
typedef struct {
  float least, margin;
} espalier_fw_guess;

/// Adds the `budget` largest of the positive scores to `vertex`, of equal ones the lower index; returns their sum.
double espalier_fw_largest(size_t words, size_t padded, size_t budget, const float *COUNTED(padded) s, espalier_fw_guess *guess,
                           float *COUNTED(padded) scratch, uint64_t *COUNTED(words) vertex);
/// The `keep` largest of every group of `size` entries: frozen ones first, then positive scores, of equal ones the lower index.
/// `vertex` becomes these, with the frozen ones; returns the sum of the chosen scores.
double espalier_fw_largest_in_groups(size_t words, size_t padded, size_t n, size_t size, size_t keep, const float *COUNTED(padded) s,
                                     const uint64_t *COUNTED(words) frozen, uint64_t *COUNTED(words) vertex);
/// Counts the positive scores whose bits, as an integer, are low ..< high, by (bits - low) >> shift; for every quotient there must be a
/// count. Returns how many are not below high.
size_t espalier_fw_histogram(size_t padded, const float *COUNTED(padded) s, uint32_t low, uint32_t high, int shift, size_t slots,
                             uint64_t *COUNTED(slots) counts);
/// How many scores are equal to the threshold; 0 for a threshold of 0.
size_t espalier_fw_count_equal(size_t padded, const float *COUNTED(padded) s, float threshold);
/// Adds to `vertex` the entries above the threshold (not negative), and the first `ties` positive ones that are equal to it; returns
/// their sum.
double espalier_fw_above(size_t words, size_t padded, const float *COUNTED(padded) s, float threshold, size_t ties,
                         uint64_t *COUNTED(words) vertex);

// ---- fwpairwise.c: steps of single entries and of pairs, in f64

/// How a row ends.
typedef struct {
  uint64_t steps;
  double loss, gap;
} espalier_fw_end;

enum {
  /// Floats of scratch that a row needs for each of its padded entries.
  ESPALIER_FW_PAIR_SCRATCH = 8
};

/// Pairwise steps of one row: the entry whose loss falls fastest takes mass from the one that gains most by giving it. The row ends when
/// the gap, twice the sum of what the best vertex gains over x, is at most `tolerance` times the loss, or after `limit` steps. The sum
/// of x stays, up to rounding.
///
///   c[padded]  ((1 - x) . w) G, in and out
///   next       scratch for a vertex
espalier_fw_end espalier_fw_pairs(size_t words, size_t padded, espalier_gram gram, const float *COUNTED(padded) w,
                                  const uint64_t *COUNTED(words) frozen, size_t budget, uint64_t limit, double tolerance,
                                  float *COUNTED(padded) x, double *COUNTED(padded) c, size_t scratch_count,
                                  float *COUNTED(scratch_count) scratch, uint64_t *COUNTED(words) next);
/// The same inside groups of `size` entries that keep `keep` each, group after group.
espalier_fw_end espalier_fw_group_pairs(size_t words, size_t padded, espalier_gram gram, const float *COUNTED(padded) w,
                                        const uint64_t *COUNTED(words) frozen, size_t size, size_t keep, uint64_t limit,
                                        double tolerance, float *COUNTED(padded) x, double *COUNTED(padded) c, size_t scratch_count,
                                        float *COUNTED(scratch_count) scratch);
/// Steps of single entries of one row that lower the loss plus twice `price` times the sum of x, the best first. The row ends when the
/// gap of that function is at most `tolerance` times the loss, or after `limit` steps.
espalier_fw_end espalier_fw_priced(size_t words, size_t padded, espalier_gram gram, const float *COUNTED(padded) w,
                                   const uint64_t *COUNTED(words) frozen, float price, uint64_t limit, double tolerance,
                                   float *COUNTED(padded) x, double *COUNTED(padded) c, size_t scratch_count,
                                   float *COUNTED(scratch_count) scratch);

#endif
