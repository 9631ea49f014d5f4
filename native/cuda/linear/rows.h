// The activations of a linear operation as its matrix products read them: row-major, columns padded with zeros to a multiple
// of 64, in one of three forms.
//
//   bf16   `planes` 16-bit floats an element whose sum is the element: 1 for bf16, 2 for f16, 3 for f32. A plane is a whole
//          [rows, stride] matrix, the largest parts first. Products of plane i of a weight and plane j of x count where
//          i + j ≤ 2: the rest is below the last place of f32.
//   f16    one plane, for f16 activations under f16 or integer weights
//   int8   operations.h's rule: codes, a step and a sum of codes for each block of columns; within each 16 columns the bytes
//          are in the order of packed.h (byte_column)
//
// Where the activations already are what is wanted (bf16 or f16, a width that is a multiple of 64, no sums), no kernel
// runs and `data` is the operand itself. Nor does one where the linear that computed x handed it on as codes (requantize.h).
//
// A slot may be narrower than x (ragged banks): its weights past its own columns are zeros, but a block's sum is over all of
// x, so a kernel asks `block_sum` (scales.h) for it.
#pragma once
#include "kernel/frame.h"

namespace moe::cuda {

enum class RowForm : int32_t { bf16, f16, int8 };

// By value in kernel parameters.
struct Rows {
  Place
      data;  // rows(frame, data): how many x has in this run; element (plane, row, column) is data[(plane · capacity + row) · stride + column]
  RowForm form;
  int32_t planes;
  int64_t capacity;  // rows of a plane
  int64_t width;     // of x
  int64_t stride;    // elements; the padded width
  int32_t block;     // columns of a step or sum: the weight's group, or the whole width where that is 0
  int32_t blocks;
  Place steps;  // int8: f32 [capacity, blocks]
  Place sums;   // of the block's elements: f32, or i32 of codes for int8; absent where the weight has no offsets
};

}  // namespace moe::cuda
