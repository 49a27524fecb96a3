#include "CKernels.h"

#include <math.h>

espalier_dsnot espalier_dsnot_row(size_t n, size_t span, uint64_t limit, double threshold, const float *w, const double *means,
                                  const double *squares, uint8_t *kept, uint8_t *moved) {
  double error = 0, energy = 0;
  for (size_t i = 0; i < n; i++) {
    moved[i] = 0;
    if (kept[i]) continue;
    error += w[i] * means[i];
    energy += (double)w[i] * w[i] * squares[i];
  }
  espalier_dsnot row = {0, error, error};
  double enough = threshold * sqrt(energy);
  while (row.moves < limit && fabs(row.after) > enough) {
    double sign = row.after > 0 ? 1 : -1, most = 0;
    size_t restored = n;
    for (size_t i = 0; i < n; i++) {
      double part = sign * w[i] * means[i];
      if (kept[i] || moved[i] || !(part > 0)) continue;
      // A constant input has no variance; the floor avoids a division by 0.
      double variance = fmax(squares[i] - means[i] * means[i], 1e-12 * squares[i]);
      if (part / variance > most) {
        most = part / variance;
        restored = i;
      }
    }
    if (restored == n) break;
    moved[restored] = 1;
    size_t start = restored / span * span, pruned = n;
    double least = INFINITY;
    for (size_t i = start; i < start + span; i++) {
      if (!kept[i] || moved[i] || (span == n && !(sign * w[i] * means[i] < 0))) continue;
      double salience = (double)w[i] * w[i] * squares[i];
      if (salience < least) {
        least = salience;
        pruned = i;
      }
    }
    if (pruned == n) {
      // Another group may still have one.
      if (span < n) continue;
      break;
    }
    double after = row.after - w[restored] * means[restored] + w[pruned] * means[pruned];
    if (!(fabs(after) < fabs(row.after))) break;
    moved[pruned] = 1;
    kept[restored] = 1;
    kept[pruned] = 0;
    row.after = after;
    row.moves++;
  }
  return row;
}
