// Quantization with error feedback: GPTQ (Frantar et al., 2022).
#pragma once
#include <cstdint>

#include "numerics/grid.h"

namespace moe::numerics {

struct GptqOptions {
  GridForm form;
  int64_t group = 32;     // inputs a scale, 0: all of them
  double damping = 0.01;  // share of the mean of the statistic's diagonal that is added to it
  bool nibbles = true;    // codes are kept two to a byte, for at most 4 bits
  bool by_size = false;   // visit columns by falling statistic ("act-order"); groups are those of the original weights
};

// The plain form (docs/weights.md) and what it stands for.
struct GptqTarget {
  uint8_t *values;     // nibbles [rows, ceil(columns / 2)] or i8 [rows, columns]
  void *scale;         // [rows, groups] of f16 or f32
  void *offset;        // as scale; null for a symmetric form
  float *dequantized;  // [rows, columns] = scale·code − offset
};

// w [rows, columns] f32; hessian [columns, columns] = Σ x·xᵀ of the inputs, any scale; groups = ceil(columns / group).
// Without by_size a group's grid comes from its weights as they were when its block of 128 columns began. Columns of
// inputs that are always 0 count as weights 0. INVALID_ARGUMENT for what is not finite or out of range.
void gptq(const float *w, const double *hessian, int64_t rows, int64_t columns, const GptqOptions &options,
          const GptqTarget &to);

}  // namespace moe::numerics
