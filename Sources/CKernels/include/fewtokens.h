// Products of a weight with the states of a few tokens, as in decoding, where memory is the limit: each byte of the weight is read
// once for up to 8 tokens. Columns go in chunks of 32; a column's place alone says to which lane its product is added, so a row sums
// in the same order whether its zeros are stored or not, and for any number of tokens.
#ifndef ESPALIER_FEWTOKENS_H
#define ESPALIER_FEWTOKENS_H

#include "counted.h"

#include <stddef.h>
#include <stdint.h>

enum { ESPALIER_BF16, ESPALIER_F16, ESPALIER_F32 };

/// Whether products of pairs of bf16 with sums in f32 are available here, within the limit set.
int espalier_few_pairs(void);
/// Words of a packed state: in pairs of bf16 one for two columns, else one for each; of whole chunks.
size_t espalier_few_words(size_t columns, int paired);
/// Packs one of `tokens` states, of `columns` values; `paired` rounds it to bf16, in place too. The chunks of all tokens alternate, so
/// `words` begins with the first chunk of this one.
void espalier_few_pack(size_t columns, float *COUNTED(columns) x, int paired, size_t tokens, size_t n, uint32_t *COUNTED(n) words);

/// y[token][row] = or += W x for some rows of a weight: x are packed states of tokens, the rows of y are `stride` apart and begin with
/// that of the first of these rows. `paired` only for a weight of bf16, and if `espalier_few_pairs`.
///
/// A dense weight has no `bits`: `values` are the elements, row after row. Else `bits` are rows of a bit for each column in whole
/// bytes, the least significant first, and `values` the elements whose bit is set; those of the first row begin at `values`, and
/// `value_bytes` limits what is read. All may lie at any address.
void espalier_few_product(int type, size_t rows, size_t columns, const void *values, size_t value_bytes, const uint8_t *bits,
                          size_t tokens, int paired, size_t n, const uint32_t *COUNTED(n) x, int add, size_t y_count,
                          float *COUNTED(y_count) y, size_t stride);

#endif
