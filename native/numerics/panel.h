// The inner product of two packed panels in f64, shared by product.cc and cholesky.cc.
#pragma once
#include <cstdint>

namespace moe {

inline constexpr int64_t panel_lanes = 4;    // rows a panel: 4 × 4 sums fill 8 registers of 2 doubles
inline constexpr int64_t panel_depth = 256;  // columns a panel: 8 KiB

// panel [count, panel_lanes] from rows 0 … rows − 1 of `from` (row distance `stride`); lanes past the last row are
// zero.
template <typename Element>
void pack_panel(const Element *from, int64_t stride, int64_t rows, int64_t count, double *panel) {
  for (int64_t lane = 0; lane < panel_lanes; ++lane)
    for (int64_t k = 0; k < count; ++k)
      panel[k * panel_lanes + lane] = lane < rows ? static_cast<double>(from[lane * stride + k]) : 0.0;
}

// sums[u, v] += Σ_k a[k, u]·b[k, v].
inline void multiply_panels(const double *a, const double *b, int64_t count, double (&sums)[panel_lanes][panel_lanes]) {
  using Pair = double __attribute__((vector_size(16), aligned(8), may_alias));
  Pair low[panel_lanes] = {}, high[panel_lanes] = {};
  for (int64_t k = 0; k < count; ++k) {
    const Pair b_low = *reinterpret_cast<const Pair *>(b + k * panel_lanes);
    const Pair b_high = *reinterpret_cast<const Pair *>(b + k * panel_lanes + 2);
    for (int64_t u = 0; u < panel_lanes; ++u) {
      const double value = a[k * panel_lanes + u];
      low[u] += value * b_low;
      high[u] += value * b_high;
    }
  }
  for (int64_t u = 0; u < panel_lanes; ++u)
    for (int64_t v = 0; v < 2; ++v) {
      sums[u][v] += low[u][v];
      sums[u][v + 2] += high[u][v];
    }
}

}  // namespace moe
