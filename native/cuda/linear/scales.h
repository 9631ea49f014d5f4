// What turns sums of codes into sums of weights: scales, offsets and outer scales of a panel's rows; steps and sums of rows.
#pragma once
#include "kernel/element.h"
#include "linear/packed.h"
#include "linear/rows.h"

namespace moe::cuda {

// Scale or offset number `index` of a stack (PackedSlot::scale): its bits, which may still be under way, and what they mean.
__device__ __forceinline__ uint32_t scale_bits(int32_t dtype, const void *scales, int64_t index) {
  if (dtype == MOE_F32) return ptx::load(static_cast<const uint32_t *>(scales) + index);
  if (dtype == MOE_F16) return ptx::load(static_cast<const uint16_t *>(scales) + index);
  return ptx::load(static_cast<const uint8_t *>(scales) + index);
}
__device__ __forceinline__ float scale_of_bits(int32_t dtype, uint32_t bits) {
  const float half = ptx::f16_to_f32(static_cast<uint16_t>(bits)), byte = static_cast<float>(static_cast<int8_t>(bits));
  return dtype == MOE_F32 ? __uint_as_float(bits) : dtype == MOE_F16 ? half : byte;
}
__device__ __forceinline__ float load_scale(int32_t dtype, const void *scales, int64_t index) {
  return scale_of_bits(dtype, scale_bits(dtype, scales, index));
}

// Step of block `block` of a row; 1 where rows are not quantized. `row` −1: a row of zeros.
__device__ __forceinline__ float block_step(const Frame *frame, const Rows &rows, int64_t row, int64_t block) {
  if (rows.form != RowForm::int8) return 1.0f;
  return row < 0 ? 0.0f : ptx::load(at<float>(frame, rows.steps) + row * rows.blocks + block);
}

// Σ of the block's elements (or codes) below column `columns`, the slot's own width. The last block of a slot
// that is narrower than x is added up here.
__device__ __forceinline__ float block_sum(const Frame *frame, const Rows &rows, int64_t row, int64_t block,
                                           int64_t columns) {
  if (row < 0) return 0.0f;
  const int64_t begin = block * rows.block, end = begin + rows.block < rows.width ? begin + rows.block : rows.width;
  if (end <= columns) {
    const int64_t index = row * rows.blocks + block;
    if (rows.form == RowForm::int8) return static_cast<float>(ptx::load(at<int32_t>(frame, rows.sums) + index));
    return ptx::load(at<float>(frame, rows.sums) + index);
  }
  float sum = 0;
  if (rows.form == RowForm::int8) {
    const int8_t *const codes = at<int8_t>(frame, rows.data) + row * rows.stride;
    for (int64_t place = begin; place < rows.stride && place / step_columns * step_columns < columns; ++place)
      if (place / step_columns * step_columns + byte_column(static_cast<int>(place % step_columns)) < columns)
        sum += static_cast<float>(ptx::load(codes + place));
    return sum;
  }
  const int32_t dtype = rows.form == RowForm::f16 ? MOE_F16 : MOE_BF16;
  for (int64_t column = begin; column < columns; ++column) {
    float value = 0;
    for (int plane = rows.planes - 1; plane >= 0; --plane)
      value += load_float(dtype, at<void>(frame, rows.data), (plane * rows.capacity + row) * rows.stride + column);
    sum += value;
  }
  return sum;
}

}  // namespace moe::cuda
