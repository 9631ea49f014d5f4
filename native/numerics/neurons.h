// Removing neurons of an expert one by one and repairing the rest: structured Optimal Brain Surgeon on the down
// projection (Kurtić et al., "ZipLM", 2023; Ling et al., "SlimGPT", 2024).
#pragma once
#include <cstdint>

#include "numerics/multiply.h"

namespace moe::numerics {

// The greedy order in which the neurons of down D [hidden, width] (row-major, f32 or f64) are removed, for the statistic
// h = Σ h·hᵀ [width, width] of their activations. With P = (h + ridge·I)⁻¹ a step removes the neuron of least
//   cost_j = ‖D_j‖² / P_jj, the rise of tr(E·(h + ridge·I)·Eᵀ) for the change E of D,
// the lower index where two are equal, and updates D ← D − D_j·P_j / P_jj, P ← P − P_jᵀ·P_j / P_jj.
// order [width]; curve [width]: the largest cost up to each step. INVALID_ARGUMENT as symmetric_inverse.
void neuron_curve(const Operand &down, const double *h, int64_t hidden, int64_t width, double ridge, int32_t *order,
                  double *curve);

// to [hidden, count]: the columns of `kept` (rising indices) after all others were removed as above, in whatever order:
// D_S + D_R·h_RS·(h_SS + ridge·I)⁻¹.
void refit_neurons(const Operand &down, const double *h, int64_t hidden, int64_t width, double ridge,
                   const int32_t *kept, int64_t count, double *to);

}  // namespace moe::numerics
