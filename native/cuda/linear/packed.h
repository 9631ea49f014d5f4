// How matrices lie in device memory: one order that decode, mma.sync and wgmma kernels all read.
//
// A panel is 16 rows. In a gated stack rows 0 … 7 of a panel are 8 gate rows and rows 8 … 15 the up rows of the same
// outputs, so that a lane that holds row g and row g + 8 has both sides of an activation. Columns are padded to 64 with
// zeros and cut in steps of 16, which is the depth of a 16-bit matrix product. For a step, lane 4g + q holds eight elements
//
//   e0 e1 = row g,     columns 2q, 2q + 1      e4 e5 = row g,     columns 2q + 8, 2q + 9
//   e2 e3 = row g + 8, columns 2q, 2q + 1      e6 e7 = row g + 8, columns 2q + 8, 2q + 9
//
// which are the four registers of an m16n8k16 operand (and of a warp's part of wgmma's m64k16). A chunk is 16 bytes a lane,
// 512 a warp, so that one load of 128 bits feeds
//
//   i4          4 steps: a 32-bit word a step, nibble i = e[2i], nibble i + 4 = e[2i + 1] (i < 4), two's complement. `word &
//               000f000f`, shifted by 4 each time, gives the pairs; `word << 4` and `word` under f0f0f0f0 give 16 times
//               {e0 e4 e1 e5} and {e2 e6 e3 e7} as bytes
//   i8          2 steps: two words a step, bytes {e0 e4 e1 e5} and {e2 e6 e3 e7}
//   f16, bf16   1 step: four words, the pairs
//   f32         half a step: e0 … e3, then e4 … e7 in the next chunk
//
// Integer products (m16n8k32) take their bytes in that order, so that their other operand is permuted alike: within each 16
// columns byte 4q + (0 1 2 3) is column 2q + (0 8 1 9) (`byte_column`).
//
// Scales (and offsets) lie as [panel][group][16 rows], outer scales and biases as [panel][16 rows].
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "moe/backend.h"

namespace moe::cuda {

inline constexpr int panel_rows = 16, step_columns = 16, column_padding = 64;
inline constexpr int warp_lanes = 32;

// One matrix of a stack.
struct PackedSlot {
  int32_t rows = 0, columns = 0;  // its own
  int32_t panels = 0, steps = 0;  // steps: of 16 columns, a multiple of 4
  int32_t groups = 1;             // scales a row
  int64_t chunk = 0;              // first chunk of 32 × 16 bytes
  int64_t scale = 0;              // index of the first scale
  int64_t row = 0;                // index of the first of `panels · 16` outer scales or biases
};

// A stack of matrices of one form, by value in kernel parameters.
struct PackedView {
  const uint4 *chunks = nullptr;
  const void *scales = nullptr, *offsets = nullptr;  // null where there are none
  const float *outer = nullptr;                      // of dual-grained stacks
  const PackedSlot *slots = nullptr;
  const int32_t *slot_of = nullptr;  // null: slot s is matrix s
  int32_t store = -1, scale = -1;    // dtypes
  int32_t group = 0;                 // columns a scale; 0: the row
  int32_t gated = 0;
  int32_t panels = 0, steps = 0;  // of the largest matrix

  __host__ __device__ bool present() const { return chunks != nullptr; }
};

// Chunks of a panel of `steps` steps.
__host__ __device__ constexpr int64_t chunks_of(int32_t store, int64_t steps) {
  return store == MOE_I4 ? steps / 4 : store == MOE_I8 ? steps / 2 : store == MOE_F32 ? 2 * steps : steps;
}

// The column, within its 16, of byte `place` of an integer operand.
__host__ __device__ constexpr int byte_column(int place) { return 2 * (place / 4) + (place % 4 / 2) + 8 * (place % 2); }

// Panel and row within it of row `row` of a matrix of `rows` rows.
struct PanelRow {
  int64_t panel;
  int row;
};
__host__ __device__ constexpr PanelRow panel_row(bool gated, int64_t rows, int64_t row) {
  if (!gated) return {row / panel_rows, static_cast<int>(row % panel_rows)};
  const bool up = row >= rows / 2;
  const int64_t output = up ? row - rows / 2 : row;
  return {output / 8, static_cast<int>(output % 8) + (up ? 8 : 0)};
}

}  // namespace moe::cuda
