#ifndef ESPALIER_FRANKWOLFE_H
#define ESPALIER_FRANKWOLFE_H

#include <stddef.h>
#include <stdint.h>

#include "gram.h"

// ---- frankwolfe.c: Frank-Wolfe on relaxed masks (SparseFW, arXiv 2510.13713).
//
// Rows are padded: `padded` is n rounded up to a multiple of 64, and the arrays of a row (w, x, c, s) hold zeros from n on; cv may hold
// anything finite there. Sets of entries of a row (frozen, vertex) are padded / 64 words of bits. The relaxed mask is x,
// c = ((1 - x) . w) G, cv = ((1 - v) . w) G for the vertex v, s = w . c: half of the negative gradient.

enum {
  /// Rows of G that one tile of espalier_fw_apply spans.
  ESPALIER_FW_TILE = 256
};

/// An entry of the row that entered or left the vertex, and what its part of (1 - v) . w changed by.
typedef struct {
  uint32_t index;
  float value;
} espalier_fw_change;

/// x += eta (v - x) and c += eta (cv - c); s of the entries that are not frozen, 0 for frozen ones.
/// sums[0] becomes the loss ((1 - x) . w) c, sums[1] the sum of s x.
void espalier_fw_advance(size_t padded, float eta, const float *w, const uint64_t *frozen, const uint64_t *vertex, const float *cv,
                         float *x, float *c, float *s, double *sums);
/// s[i] = w[i] c[i], 0 where frozen.
void espalier_fw_scores(size_t padded, const float *w, const uint64_t *frozen, const float *c, float *s);
/// ((1 - v) . w) cv: the loss at the vertex.
double espalier_fw_vertex_loss(size_t padded, const float *w, const uint64_t *vertex, const float *cv);
/// The `budget` largest of the positive scores, of equal ones the lower index: adds their bits to `vertex`, returns their sum.
/// guess[2] holds the least score chosen and how far it may move, relatively; in and out, zeros at first. `scratch` holds padded.
double espalier_fw_largest(size_t padded, size_t budget, const float *s, float *guess, float *scratch, uint64_t *vertex);
/// Of every group of `size` entries the `keep` largest: frozen ones first, then positive scores, of equal ones the lower index.
/// Writes `vertex`, the frozen entries included; returns the sum of the chosen scores.
double espalier_fw_largest_in_groups(size_t n, size_t size, size_t keep, const float *s, const uint64_t *frozen, uint64_t *vertex);
/// Counts the positive scores whose bits, as an integer, are in [low, high) by how far they are above low, shifted right; `counts` has
/// room for (high - low) >> shift and one more. Returns how many are not below high.
size_t espalier_fw_histogram(size_t padded, const float *s, uint32_t low, uint32_t high, int shift, uint64_t *counts);
/// How many are equal to the threshold; 0 for a threshold of 0.
size_t espalier_fw_count_equal(size_t padded, const float *s, float threshold);
/// Adds to `vertex` the entries above the threshold (not negative), and the first `ties` positive ones that are equal to it; returns
/// their sum.
double espalier_fw_above(size_t padded, const float *s, float threshold, size_t ties, uint64_t *vertex);
/// Replaces `vertex` by `next` and writes the changes in the order of their indices; starts[i] is the number of changes before tile i,
/// padded / tile rounded up, and one more. Changes beyond `capacity` are counted but not written. Returns how many there are.
size_t espalier_fw_changes(size_t padded, const float *w, const uint64_t *next, uint64_t *vertex, size_t capacity,
                           espalier_fw_change *changes, uint32_t *starts);
/// cv += changes G for `rows` rows and the `width` columns from where `gram` and `cv` point, both with row distance `ld`. Row r has its
/// changes at changes + r * capacity, its starts at starts + r * (tiles + 1). Tiles are taken in the opposite order if `backwards`.
void espalier_fw_apply(size_t rows, size_t width, size_t tiles, size_t ld, const float *gram, size_t capacity,
                       const espalier_fw_change *changes, const uint32_t *starts, int backwards, float *cv);
/// Pairwise steps of one row: mass moves between the two entries where it lowers the loss most, given the one whose gradient is the
/// lowest, until twice the sum of what the best vertex gains over x, the gap, is at most `tolerance` times the loss, or for `limit`
/// steps. The sum of x stays, but for its rounding.
///
///   c[padded]  ((1 - x) . w) G, in and out
///   scratch    8 padded floats; next: padded / 64 words
///   sums[0]    the loss, sums[1] the gap
/// Returns the steps taken.
uint64_t espalier_fw_pairs(size_t padded, const espalier_gram *gram, const float *w, const uint64_t *frozen, size_t budget,
                           uint64_t limit, double tolerance, float *x, double *c, float *scratch, uint64_t *next, double *sums);
/// The same inside groups of `size` entries that keep `keep` each, group after group.
uint64_t espalier_fw_group_pairs(size_t padded, const espalier_gram *gram, const float *w, const uint64_t *frozen, size_t size,
                                 size_t keep, uint64_t limit, double tolerance, float *x, double *c, float *scratch, double *sums);
/// Steps of single entries of one row that lower the loss plus twice `price` times the sum of x, the best first, until the gap of that
/// function is at most `tolerance` times the loss, or for `limit` steps. Arrays as for espalier_fw_pairs.
uint64_t espalier_fw_priced(size_t padded, const espalier_gram *gram, const float *w, const uint64_t *frozen, float price,
                            uint64_t limit, double tolerance, float *x, double *c, float *scratch, double *sums);
/// d[i] = w[i] outside of `vertex`, else 0; n entries.
void espalier_fw_outside(size_t n, const float *w, const uint64_t *vertex, float *d);

#endif
