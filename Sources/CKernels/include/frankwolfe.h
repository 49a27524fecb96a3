#ifndef ESPALIER_FRANKWOLFE_H
#define ESPALIER_FRANKWOLFE_H

#include <stddef.h>
#include <stdint.h>

// ---- frankwolfe.c: Frank-Wolfe on relaxed masks.

#endif
