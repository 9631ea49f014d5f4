// The kernels of linear that each instruction set fills (kernels.inl); linear.cc cuts the work and calls them.
#pragma once
#include <cstddef>
#include <cstdint>

#include "linear/tile.h"

namespace moe::cpu::linear {

// Where each form of the rows lies in a prepared block, as bytes a row: form f of a block of R rows starts at R · f.
// −1: no part of the bank reads it. stride = row_stride(…) of the bank; runs: sums of integers that share a step.
//   floats  f32 [padded][R]                     dense matrices in exact mode or of floats
//   rounded bf16 [R][stride], or [stride / 32][R][32] where there are tiles: dense and sparse parts of bf16, where Call::bf16;
//           where there are both tiles and a sparse part, the last four bytes, behind all that is read as inputs: not_finite
//   rows    f32 [R][stride]                     a sparse part in exact mode or of floats
//   base, kept
//           codes [padded / d][R][d], d = 4, or 8 where there are matrix products, or of least_tile_rows rows and more where
//           there are tiles, their depth;
//           then step f32 [runs][R], then sum of codes i32 [runs][R]
//   sparse  codes + 128 u8 [R][stride], then step f32 [groups][R]; of blocks that are multiplied in tiles, as base
//   early   A·x f32 [32 · tiles of A][R], or where B is multiplied so as bf16, as rounded, [R][32 · tiles of A], in the first half
//           of it, zeros behind its ranks; then kept rows·x f32 [R][32 · tiles of kept rows], and kept_slack floats; written by `early`
struct Forms {
  int64_t floats = -1, rounded = -1, rows = -1, base = -1, kept = -1, sparse = -1, early = -1;
  int64_t stride = 0;
};

// Up to Kernels::rows rows of one slot that pass through the kernels together. `prepared` is theirs alone.
struct RowBlock {
  int64_t first;  // row of y
  int32_t rows;
  int32_t slot;
  std::byte *prepared;

  [[gnu::always_inline]] std::byte *form(int64_t bytes) const { return prepared + bytes * rows; }
};

// Bit r: row r of a block, rounded, has an input that is not finite.
[[gnu::always_inline]] inline uint32_t &not_finite(const Forms &forms, const RowBlock &block) {
  return *reinterpret_cast<uint32_t *>(block.form(forms.rounded) + forms.stride * 2 * block.rows - 4);
}

struct Call {
  const Slot *slots;
  bool int8;
  bool bf16;  // what meets bf16 matrices is rounded to bf16
  Forms forms;
  int32_t activation;
  const float *x;  // [x_rows, x_width]
  int64_t x_rows, x_width;
  const int32_t *token_of;  // row of x of each row of y, or null
  const float *residual;    // as y, or null
  float *y;                 // [rows, y_width]
  int64_t y_width;
  bool past_caches;  // y is written past them: it is so large that little of it would be left there
};

// Rows of a segment, at most, and inputs of a piece of a tile that is widened to f32.
inline constexpr int segment_rows = 144;
inline constexpr int widened_inputs = 128;
// Floats that a look-up of kept rows may read past the last one.
inline constexpr int kept_slack = 16;
// bf16 inputs that one look-up can choose from: a step of sparse values that reaches farther is multiplied in f32.
inline constexpr int pair_window = 32;

// Asks memory for a line, into the second-level cache: a page ahead would take the first one from what is read now.
[[gnu::always_inline]] inline void prefetch(const void *line) { __builtin_prefetch(line, 0, 2); }

// Rows from which a block of codes is multiplied in tiles, where an instruction set has them: more than a block of dot products
// has. Fewer wait for memory, and need no widened weights for that.
inline constexpr int least_tile_rows = 13;

// Inputs of a tile, up to `most`: as many as divide every run of the matrix, so that no tile is cut short. Under an outer scale
// the groups are one run (amx.inl).
[[gnu::always_inline]] inline int64_t depth_of_tiles(const Matrix &matrix, int64_t most) {
  const int64_t run = matrix.outer < 0 ? matrix.run() : channel_run;
  const int64_t last = matrix.padded - (matrix.padded - 1) / run * run;
  int64_t depth = most;
  while (last % depth != 0 || (last != matrix.padded && run % depth != 0)) depth -= 8;
  return depth;
}

struct Kernels {
  // Rows of a register block: in f32, of codes, and where a call has nothing but dense products of codes or of bf16. Such a
  // call's segments have up to segment_dense rows.
  int rows_exact, rows_int8, rows_dense, segment_dense;
  // Floats that a thread needs beside the rows: a widened piece of a tile, and the sums of a segment.
  int64_t thread_floats;
  bool bf16;          // whether there are products of bf16
  bool sparse_tiles;  // whether n:m parts of codes and of bf16 may be multiplied in blocks of rows_dense
  // Gathers, and for int8 quantizes, the rows of a block.
  void (*prepare)(const Call &call, const RowBlock &block);
  // Computes tiles [begin, end) of A, then of kept rows, for blocks of one slot, at most a segment.
  void (*early)(const Call &call, const RowBlock *blocks, int32_t count, int64_t begin, int64_t end,
                float *thread_scratch);
  // Computes tiles [begin, end) of y for the blocks of one segment: of slots with one base.
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
namespace avx2vnni {
extern const linear::Kernels linear_kernels;
}
namespace avx512 {
extern const linear::Kernels linear_kernels;
}
namespace avx512bf16 {
extern const linear::Kernels linear_kernels;
extern const linear::Kernels exact_kernels;  // without products of bf16
}  // namespace avx512bf16
namespace amx {
extern const linear::Kernels linear_kernels;
}
namespace amx_twin {
extern const linear::Kernels linear_kernels;
}
namespace neon {
extern const linear::Kernels linear_kernels;
}
namespace neon_i8mm {
extern const linear::Kernels linear_kernels;
}
}  // namespace moe::cpu
