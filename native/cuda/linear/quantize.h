// Rows of floats made into codes, a step and a sum for each block of columns (rows.h), to the bit as operations.h says: for
// prepare_rows, which reads a stored x, and for the kernels whose y is the x of the next product (requantize.h).
//
// Layout: a warp takes 128 columns at a time, four neighbours a lane, so that a block of 32, 64 or 128 columns is 8, 16 or
// 32 lanes; several warps may share a row.
#pragma once
#include <ptx.h>

#include "kernel/reduce.h"
#include "kernel/vector.h"
#include "linear/arguments.h"
#include "linear/packed.h"
#include "linear/row_blocks.h"
#include "linear/rows.h"

namespace moe::cuda {

inline constexpr int piece_columns = 4 * warp_lanes;  // of a warp at a time
inline constexpr int pieces_together = 4;             // loads of a lane that are under way at once

// The warps of a thread block in teams of equal size, each of which works on a row of its own.
class RowTeams {
 public:
  // `warps` of a team; `partial` holds one number a warp of the block.
  __device__ __forceinline__ RowTeams(int warps, const SharedArray<int32_t> &partial)
      : warps_(warps), partial_(partial) {}

  __device__ __forceinline__ int warps() const { return warps_; }
  __device__ __forceinline__ int team() const { return warp_of_thread() / warps_; }
  __device__ __forceinline__ int warp() const { return warp_of_thread() % warps_; }

  // Over the threads of a team; called by all threads of the block.
  template <typename Combine>
  __device__ __forceinline__ int32_t reduce(int32_t value, Combine combine) const {
    value = warp_reduce(value, combine);
    __syncthreads();  // whoever still reads the last result
    if (lane_of_thread() == 0) partial_[warp_of_thread()] = value;
    __syncthreads();
    int32_t result = partial_[team() * warps_];
    for (int i = 1; i < warps_; ++i) result = combine(result, partial_[team() * warps_ + i]);
    return result;
  }

 private:
  int warps_;
  SharedArray<int32_t> partial_;
};

// Four neighbours, of which the first `left` are there; zeros behind. `aligned`: rows are of a multiple of 4 columns.
template <bool aligned>
__device__ __forceinline__ Packed<4> load_piece(int32_t dtype, const void *data, int64_t index, int left) {
  Packed<4> piece{};
  if constexpr (aligned) {
    if (left > 0) piece = load_packed<4>(dtype, data, index);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t bits = i < left ? load_packed<1>(dtype, data, index + i).word[0] : 0;
      if (dtype == MOE_F32) {
        piece.word[i] = bits;
      } else {
        piece.word[i / 2] |= bits << (16 * (i % 2));
      }
    }
  }
  return piece;
}

// The bits of the largest magnitude: in the order of the magnitudes, infinities and NaN above all others.
__device__ __forceinline__ int32_t largest_magnitude(const Vector<4> &v) {
  int32_t largest = 0;
#pragma unroll
  for (const float element : v.element) largest = max(largest, __float_as_int(element) & 0x7fffffff);
  return largest;
}
// A step that is NaN: the block has a NaN or an infinity.
__device__ __forceinline__ float step_of(int32_t largest) {
  return largest < 0x7f800000 ? __fdiv_rn(__int_as_float(largest), 127.0f) : __int_as_float(0x7fffffff);
}
__device__ __forceinline__ int code_of(float value, float step) {
  if (!(step > 0)) return 0;
  const int code = __float2int_rn(__fdiv_rn(value, step));
  return code < -127 ? -127 : code > 127 ? 127 : code;
}

// Codes of four neighbours to their places among 16 (byte_column): lanes j and j + 2 of four have columns that lie together.
__device__ __forceinline__ void store_codes(int8_t *row, int column, const int (&code)[4], bool within) {
  const uint32_t own = (static_cast<uint32_t>(code[0]) & 0xffu) | (static_cast<uint32_t>(code[1]) & 0xffu) << 8 |
                       (static_cast<uint32_t>(code[2]) & 0xffu) << 16 | static_cast<uint32_t>(code[3]) << 24;
  const uint32_t other = __shfl_xor_sync(whole_warp, own, 2);
  const int lane = lane_of_thread() % 4;
  const bool low = lane < 2;
  const uint32_t word = low ? ptx::permute_bytes(own, other, 0x5140) : ptx::permute_bytes(other, own, 0x7362);
  if (!within) return;
  const int at = column / step_columns * step_columns + 8 * (lane % 2) + (low ? 0 : 4);
  ptx::store(reinterpret_cast<uint32_t *>(row + at), word);
}

// Row `row` of `x`, of to.width columns, by a team. Called by all threads of the block; where `there` is false the team only
// keeps step with the others.
template <bool aligned>
__device__ __forceinline__ void quantize_row(const Frame *frame, const Place &x, const Rows &to, int64_t row,
                                             bool there, const RowTeams &teams) {
  const std::byte *const data = at<std::byte>(frame, x) + row * to.width * (x.dtype == MOE_F32 ? 4 : 2);
  float *const steps = at<float>(frame, to.steps) + row * to.blocks;
  int32_t *const sums = to.sums.present() ? at<int32_t>(frame, to.sums) + row * to.blocks : nullptr;
  int8_t *const codes = at<int8_t>(frame, to.data) + row * to.stride;
  const bool whole = to.blocks == 1, leader = there && teams.warp() == 0 && lane_of_thread() == 0;
  const int width = there ? static_cast<int>(to.width) : 0, stride = there ? static_cast<int>(to.stride) : 0;
  const int first = teams.warp() * piece_columns + 4 * lane_of_thread(), turn = teams.warps() * piece_columns;
  const auto load = [&](int column, Packed<4>(&piece)[pieces_together]) {
#pragma unroll
    for (int i = 0; i < pieces_together; ++i)
      piece[i] = load_piece<aligned>(x.dtype, data, column + i * turn, width - (column + i * turn));
  };

  float step = 0;
  if (whole) {
    int32_t largest = 0;
    for (int column = first; column < width; column += pieces_together * turn) {
      Packed<4> piece[pieces_together];
      load(column, piece);
#pragma unroll
      for (const Packed<4> &own : piece) largest = max(largest, largest_magnitude(widen(x.dtype, own)));
    }
    step = step_of(teams.reduce(largest, Largest()));
    if (leader) ptx::store(steps, step);
  }

  const int lanes = whole ? warp_lanes : to.block / 4;  // of one block
  int32_t row_sum = 0;
  // Warps stay together: all lanes take part in the exchanges below.
  for (int start = first - 4 * lane_of_thread(); start < stride; start += pieces_together * turn) {
    Packed<4> piece[pieces_together];
    load(start + 4 * lane_of_thread(), piece);
#pragma unroll
    for (int i = 0; i < pieces_together; ++i) {
      if (start + i * turn >= stride) break;
      const int column = start + i * turn + 4 * lane_of_thread();
      const Vector<4> v = widen(x.dtype, piece[i]);
      const bool leads = lane_of_thread() % lanes == 0 && column < width;
      if (!whole) {
        step = step_of(warp_reduce(largest_magnitude(v), Largest(), lanes));
        if (leads) ptx::store(steps + column / to.block, step);
      }
      int code[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) code[j] = code_of(v.element[j], step);
      store_codes(codes, column, code, column < stride);
      const int32_t sum = (code[0] + code[1]) + (code[2] + code[3]);
      row_sum += sum;
      if (sums == nullptr || whole) continue;
      const int32_t total = warp_reduce(sum, Add(), lanes);
      if (leads) ptx::store(sums + column / to.block, total);
    }
  }
  if (!whole || sums == nullptr) return;
  row_sum = teams.reduce(row_sum, Add());
  if (leader) ptx::store(sums, row_sum);
}

// The end of a kernel whose y the next product reads as codes: called by all threads of a block that has stored its part of
// row block number `index`, of which `parts` blocks store one each. The last of them to come here quantizes the rows, which
// then lie in L2. `partial` holds one number a warp.
template <int threads>
__device__ __forceinline__ void quantize_finished_rows(const Frame *frame, const LinearArguments &a,
                                                       const RowBlock &block, unsigned index, unsigned parts,
                                                       const SharedArray<int32_t> &partial) {
  if (!a.rows_of_y.data.present()) return;
  __syncthreads();
  bool last = false;
  if (threadIdx.x == 0) {
    uint32_t *const finished = const_cast<uint32_t *>(frame->finished + index);
    last = ptx::add_release(finished, 1) + 1 == parts;
    if (last) ptx::store(finished, 0u);
  }
  if (__syncthreads_or(last ? 1 : 0) == 0) return;
  constexpr int warps = threads / 32;
  int team_warps = warps;
  while (team_warps > 1 && warps / team_warps < block.count) team_warps /= 2;
  const RowTeams teams(team_warps, partial);
  for (int first = 0; first < block.count; first += warps / team_warps) {
    const int row = first + teams.team();
    quantize_row<true>(frame, a.y, a.rows_of_y, block.first + row, row < block.count, teams);
  }
}

}  // namespace moe::cuda
