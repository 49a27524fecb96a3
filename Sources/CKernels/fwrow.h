// What the files of Frank-Wolfe have in common.
#ifndef ESPALIER_FWROW_H
#define ESPALIER_FWROW_H

#include "lanes.h"

// Products and sums are rounded one by one, so that every instruction set gives the same bits. The loops wait for memory anyway.
#pragma clang fp contract(off)

BODY void require(int condition) {
  if (!condition) __builtin_trap();
}

// True where the bits of 16 entries from i on are set.
BODY i32x16 members16(const uint64_t *set, size_t i) { return lanes_of16(set[i / 64] >> i % 64); }

BODY int is_member(const uint64_t *set, size_t i) { return set[i / 64] >> i % 64 & 1; }

#endif
