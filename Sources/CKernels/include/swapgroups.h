#ifndef ESPALIER_SWAPGROUPS_H
#define ESPALIER_SWAPGROUPS_H

#include <stddef.h>
#include <stdint.h>

// ---- swapgroups.c: swaps and moves within small groups (N:M).

#endif
