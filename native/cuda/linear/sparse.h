// How n:m sparse parts lie in device memory, and the products with them. Of every m inputs of a row n are kept.
//
// 2:4   The kept values are a matrix half as wide, packed as packed.h draws it: the operand of a sparse product
//       (mma.sp) is that of a dense one over the kept columns. Beside it a word a lane for each 64 inputs of a panel:
//       lane 4g + q holds 16 inputs from 16q on, of row g in its low half and of row g + 8 in the high one; four bits a
//       block of four, the place of the first kept input below that of the second. That is the metadata of two m16n8k32
//       products, of lanes 0 and 1 of each four for the first, 2 and 3 for the second.
// n:m   else, by units of 64 inputs of a panel: a bit an input that says whether it is kept, as [2 · 32 inputs][16 rows]
//       words of 32 bits; and the kept values of the unit, row after row, each in the order of its inputs, so that a
//       value's index is the number of bits before its own. All units have room for as many as the fullest holds.
//
// Scales lie as in packed.h; their groups count inputs, kept or not.
#pragma once
#include "host/launcher.h"
#include "linear/arguments.h"

namespace moe::cuda {

inline constexpr int mask_columns = 32;

// A matrix of the n:m form.
struct SparseSlot {
  int32_t panels = 0;
  int32_t units = 0;   // of a panel
  int32_t groups = 1;  // scales a row
  int64_t unit = 0;    // index of the first unit
  int64_t scale = 0;   // index of the first scale
};

// By value in kernel parameters.
struct SparseView {
  // 2:4; not present in the n:m form.
  PackedView halves;
  const uint32_t *metadata = nullptr;
  // n:m
  const std::byte *values = nullptr;
  const uint32_t *masks = nullptr;
  const SparseSlot *slots = nullptr;
  int32_t value_bytes = 0;  // of a unit, a multiple of 16

  const void *scales = nullptr;
  int32_t store = -1, scale = -1;  // dtypes
  int32_t group = 0;               // inputs a scale; 0: the row
  int32_t n = 0, m = 0;
  int32_t columns = 0;  // inputs of the widest matrix

  bool half() const { return n == 2 && m == 4; }
};

// Which input, and so which bit of its block, a kept value of the 2:4 form has: `place` of the first and the second.
__host__ __device__ constexpr uint32_t half_metadata(int first, int second) {
  return static_cast<uint32_t>(first | second << 2);
}
// Metadata words of `chunks` chunks of kept values: 32 for each two steps.
__host__ __device__ constexpr int64_t metadata_of(int32_t store, int64_t chunks) {
  const int64_t steps = store == MOE_I4    ? 4 * chunks
                        : store == MOE_I8  ? 2 * chunks
                        : store == MOE_F32 ? chunks / 2
                                           : chunks;
  return steps / 2 * warp_lanes;
}

// S of a sum: the matrix, its rows and how they are staged.
struct SparsePart {
  SparseView weight;
  Segment segment;             // the rows; no weight
  int32_t window_rows = 0;     // staged at a time, of a row block
  int32_t window_columns = 0;  // likewise
  int32_t window_stride = 0;   // bytes of a staged row
  int32_t buffer_bytes = 0;    // of one such window
};

struct SparseArguments {
  LinearArguments linear;  // no segments
  SparsePart sparse;
  int32_t panel_warps = 1;  // panels of a thread block
};

// y = epilogue(S · rows), as launch_product for a dense matrix.
void launch_sparse(const SparseArguments &arguments, const LinearPlan &plan, Launcher &launcher);
void launch_sparse_any(const SparseArguments &arguments, const LinearPlan &plan, Launcher &launcher);
void launch_sparse_half(const SparseArguments &arguments, const LinearPlan &plan, Launcher &launcher);

// y = epilogue(segments + S · rows) in one launch: few rows, and many. S is of the 2:4 form (can_join).
void launch_decode_sparse(const LinearArguments &arguments, const SparsePart &sparse, const LinearPlan &plan,
                          Launcher &launcher);
// False where the device has too little shared memory for a tile.
bool launch_tiles_sparse(const LinearArguments &arguments, const SparsePart &sparse, const LinearPlan &plan,
                         Launcher &launcher);
// Whether there is such a kernel: rows of one form for both, and no S of f32.
bool can_join(const LinearArguments &arguments, const SparsePart &sparse);

}  // namespace moe::cuda
