// The kernels of linear that each instruction set fills (kernels.inl); linear.cc cuts the work and calls them.
#pragma once
#include <cstddef>
#include <cstdint>

#include "linear/tile.h"

namespace moe::cpu::linear {

// Up to Kernels::rows rows of one slot that pass through the kernel together. `prepared` is theirs alone:
//   exact  f32 [padded][rows]
//   int8   codes [padded / 4][rows][4], then step f32 [runs][rows], then sum of codes i32 [runs][rows]
struct RowBlock {
  int64_t first;  // row of y
  int32_t rows;
  int32_t slot;
  std::byte *prepared;
};

struct Call {
  const Slot *slots;
  bool int8;
  int32_t activation;
  const float *x;  // [x_rows, x_width]
  int64_t x_rows, x_width;
  const int32_t *token_of;  // row of x of each row of y, or null
  const float *residual;    // as y, or null
  float *y;                 // [rows, y_width]
  int64_t y_width;
};

// Floats that a thread needs beside the rows: a widened piece of a tile, and the sums of up to `segment_rows` rows.
inline constexpr int segment_rows = 96;
inline constexpr int widened_inputs = 128;
inline constexpr int64_t thread_floats = (segment_rows + widened_inputs) * tile_outputs;

struct Kernels {
  int rows_exact, rows_int8;  // rows of a register block
  // Gathers, and for int8 quantizes, the rows of a block.
  void (*prepare)(const Call &call, const RowBlock &block);
  // Computes tiles [begin, end) for the blocks of one segment: all of one slot, at most segment_rows rows.
  void (*tiles)(const Call &call, const RowBlock *blocks, int32_t count, int64_t begin, int64_t end,
                float *thread_scratch);
};

}  // namespace moe::cpu::linear

namespace moe::cpu {
namespace plain {
extern const linear::Kernels linear_kernels;
}
namespace avx2 {
extern const linear::Kernels linear_kernels;
}
namespace avx512 {
extern const linear::Kernels linear_kernels;
}
}  // namespace moe::cpu
