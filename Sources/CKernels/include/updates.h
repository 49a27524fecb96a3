#ifndef ESPALIER_UPDATES_H
#define ESPALIER_UPDATES_H

#include <stddef.h>
#include <stdint.h>

// ---- updates.c: weights that are fitted anew on a mask.

#endif
