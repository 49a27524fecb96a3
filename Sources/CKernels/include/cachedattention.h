// Attention of one token to keys and values that are kept: rows of a cache, `stride` values apart, of which one head has `size`.
#ifndef ESPALIER_CACHEDATTENTION_H
#define ESPALIER_CACHEDATTENTION_H

#include "counted.h"

#include <stddef.h>
#include <stdint.h>

/// scores[head][position] = query of the head times key at the position, for the heads that share these keys.
void espalier_cached_scores(size_t heads, size_t size, size_t q_count, const float *COUNTED(q_count) queries, size_t positions,
                            size_t stride, size_t k_count, const float *COUNTED(k_count) keys, size_t s_count,
                            float *COUNTED(s_count) scores);
/// out[head] = sum over positions of shares[head][position] times the value there.
void espalier_cached_values(size_t heads, size_t size, size_t positions, size_t s_count, const float *COUNTED(s_count) shares,
                            size_t stride, size_t v_count, const float *COUNTED(v_count) values, size_t o_count,
                            float *COUNTED(o_count) out);

#endif
