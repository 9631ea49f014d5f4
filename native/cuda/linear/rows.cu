// Prepares activations for the matrix products of a linear (rows.h): planes of 16-bit floats or quantized codes, padded with
// zeros, and a sum for each block of columns.
//
// Layout: x [rows, width] row-major, f32, f16 or bf16; the result as rows.h says. A thread block a row; a warp takes 128
// columns at a time, four neighbours a lane, so that a block of 32, 64 or 128 columns is 8, 16 or 32 lanes.
// Bound: bytes: x once (twice where a whole row shares a step, from the cache), the result once. Share reached: not measured
// on a GPU yet.
#include "host/launcher.h"
#include "kernel/element.h"
#include "kernel/reduce.h"
#include "linear/packed.h"
#include "linear/prepare_rows.h"
#include "linear/weight_fragment.h"
#include "moe/dtype.h"

namespace moe::cuda {

inline constexpr int prepare_threads = 256;
inline constexpr int piece_columns = 4 * warp_lanes;  // of a warp at a time

struct PrepareArguments {
  Place x;
  Rows rows;
};

__device__ __forceinline__ float4 load_piece(const PrepareArguments &a, const void *x, int64_t row, int64_t column) {
  const int64_t width = a.rows.width, index = row * width + column;
  if (column + 4 <= width && width % 4 == 0) return load_float4(a.x.dtype, x, index);
  const auto element = [&](int i) { return column + i < width ? load_float(a.x.dtype, x, index + i) : 0.0f; };
  return make_float4(element(0), element(1), element(2), element(3));
}

__device__ __forceinline__ float largest_of(const float4 &v) {
  return fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
}
__device__ __forceinline__ bool all_finite(const float4 &v) {
  return isfinite(v.x) && isfinite(v.y) && isfinite(v.z) && isfinite(v.w);
}

// A step that is NaN: the block has a NaN or an infinity.
__device__ __forceinline__ float step_of(float largest, bool finite) {
  return finite ? __fdiv_rn(largest, 127.0f) : __int_as_float(0x7fffffff);
}
__device__ __forceinline__ int code_of(float value, float step) {
  if (!(step > 0)) return 0;
  const int code = __float2int_rn(__fdiv_rn(value, step));
  return code < -127 ? -127 : code > 127 ? 127 : code;
}

// Codes of four neighbours to their places among 16 (byte_column): lanes j and j + 2 of four have columns that lie together.
__device__ __forceinline__ void store_codes(int8_t *row, int64_t column, const int (&code)[4], bool within) {
  const uint32_t own = (static_cast<uint32_t>(code[0]) & 0xffu) | (static_cast<uint32_t>(code[1]) & 0xffu) << 8 |
                       (static_cast<uint32_t>(code[2]) & 0xffu) << 16 | static_cast<uint32_t>(code[3]) << 24;
  const uint32_t other = __shfl_xor_sync(whole_warp, own, 2);
  const int lane = lane_of_thread() % 4;
  const bool low = lane < 2;
  const uint32_t word = low ? ptx::permute_bytes(own, other, 0x5140) : ptx::permute_bytes(other, own, 0x7362);
  if (!within) return;
  const int64_t at = column / step_columns * step_columns + 8 * (lane % 2) + (low ? 0 : 4);
  ptx::store(reinterpret_cast<uint32_t *>(row + at), word);
}

__device__ __forceinline__ void store_planes(const PrepareArguments &a, uint16_t *data, int64_t row, int64_t column,
                                             const float4 &v) {
  const Rows &rows = a.rows;
  uint32_t low[3]{}, high[3]{};
  if (rows.form == RowForm::f16) {
    low[0] = ptx::pack_f16(v.x, v.y);
    high[0] = ptx::pack_f16(v.z, v.w);
  } else {
    split_bf16(v.x, v.y, low);
    split_bf16(v.z, v.w, high);
  }
#pragma unroll
  for (int plane = 0; plane < 3; ++plane)
    if (plane < rows.planes)
      ptx::store(reinterpret_cast<uint2 *>(data + (plane * rows.capacity + row) * rows.stride + column),
                 make_uint2(low[plane], high[plane]));
}

__global__ void __launch_bounds__(prepare_threads) prepare_rows_kernel(const Frame *frame, PrepareArguments a) {
  SharedCutter cut;
  const SharedArray<float> partial = cut.take<float>(prepare_threads / warp_lanes);
  const SharedArray<int32_t> partial_codes = cut.take<int32_t>(prepare_threads / warp_lanes);
  const int64_t row = blockIdx.x;
  if (row >= rows(frame, a.x)) return;
  const Rows &to = a.rows;
  const void *const x = at<void>(frame, a.x);
  float *const steps = at<float>(frame, to.steps);
  const bool whole = to.blocks == 1, quantized = to.form == RowForm::int8;
  const int lane = lane_of_thread(), first = warp_of_thread() * piece_columns + 4 * lane;
  constexpr int stride = prepare_threads * 4;

  float row_step = 0;
  if (whole && quantized) {
    float largest = 0;
    int finite = 1;
    for (int64_t column = first; column < to.width; column += stride) {
      const float4 v = load_piece(a, x, row, column);
      largest = fmaxf(largest, largest_of(v));
      finite &= all_finite(v) ? 1 : 0;
    }
    largest = block_reduce(largest, Largest(), partial);
    row_step = step_of(largest, block_reduce(1 - finite, Largest(), partial_codes) == 0);
    if (threadIdx.x == 0) ptx::store(steps + row, row_step);
  }

  const int lanes = whole ? warp_lanes : to.block / 4;  // of one block
  float sum = 0;                                        // of this lane's elements of a whole row
  int32_t code_sum = 0;
  // Warps stay together: all lanes take part in the exchanges below.
  for (int64_t start = warp_of_thread() * piece_columns; start < to.stride; start += stride) {
    const int64_t column = start + 4 * lane;
    const bool within = column < to.stride;
    const float4 v = load_piece(a, x, row, column);
    const int64_t index = row * to.blocks + (whole ? 0 : column / to.block);
    const bool leads = !whole && lane % lanes == 0 && column < to.width;
    if (!quantized) {
      if (within) store_planes(a, at<uint16_t>(frame, to.data), row, column, v);
      const float own = (v.x + v.y) + (v.z + v.w);
      sum += own;
      if (to.sums.present() && !whole) {
        const float total = warp_reduce(own, Add(), lanes);
        if (leads) ptx::store(at<float>(frame, to.sums) + index, total);
      }
      continue;
    }
    float step = row_step;
    if (!whole) {
      const float largest = warp_reduce(largest_of(v), Largest(), lanes);
      step = step_of(largest, warp_reduce(all_finite(v) ? 0 : 1, Largest(), lanes) == 0);
      if (leads) ptx::store(steps + index, step);
    }
    const int code[4] = {code_of(v.x, step), code_of(v.y, step), code_of(v.z, step), code_of(v.w, step)};
    store_codes(at<int8_t>(frame, to.data) + row * to.stride, column, code, within);
    const int32_t own = (code[0] + code[1]) + (code[2] + code[3]);
    code_sum += own;
    if (to.sums.present() && !whole) {
      const int32_t total = warp_reduce(own, Add(), lanes);
      if (leads) ptx::store(at<int32_t>(frame, to.sums) + index, total);
    }
  }
  if (!whole || !to.sums.present()) return;
  if (quantized) {
    const int32_t total = block_reduce(code_sum, Add(), partial_codes);
    if (threadIdx.x == 0) ptx::store(at<int32_t>(frame, to.sums) + row, total);
  } else {
    const float total = block_reduce(sum, Add(), partial);
    if (threadIdx.x == 0) ptx::store(at<float>(frame, to.sums) + row, total);
  }
}

namespace {

bool fits_as_it_is(const Operand &x, const Rows &rows, bool sums) {
  return rows.form != RowForm::int8 && !sums && rows.planes == 1 && x.dtype != MOE_F32 &&
         rows.width % column_padding == 0;
}

}  // namespace

PreparedRows plan_rows(const Operand &x, const PackedView &weight, bool int8, int64_t offset) {
  PreparedRows plan;
  Rows &rows = plan.rows;
  rows.width = x.width();
  rows.stride = align_up(rows.width, column_padding);
  rows.capacity = x.rows();
  const bool integer = weight.store == MOE_I8 || weight.store == MOE_I4;
  rows.form = int8                                                         ? RowForm::int8
              : x.dtype == MOE_F16 && (integer || weight.store == MOE_F16) ? RowForm::f16
                                                                           : RowForm::bf16;
  rows.planes = rows.form != RowForm::bf16 || x.dtype == MOE_BF16 ? 1 : x.dtype == MOE_F16 ? 2 : 3;
  const bool by_row = weight.group == 0 || weight.outer != nullptr;
  rows.block = static_cast<int32_t>(by_row ? rows.width : weight.group);
  rows.blocks = static_cast<int32_t>(by_row ? 1 : ceil_divide(rows.width, weight.group));
  const bool sums = weight.offsets != nullptr;
  rows.data = x.place;
  if (fits_as_it_is(x, rows, sums)) return plan;
  const auto take = [&](Place &place, int64_t bytes) {
    place.base = 0;
    place.offset = offset + plan.bytes;
    plan.bytes += align_up(bytes, 256);
  };
  plan.needed = true;
  const int64_t elements = checked_multiply(checked_multiply(rows.capacity, rows.stride, "x"), rows.planes, "x");
  take(rows.data, elements * (int8 ? 1 : 2));
  if (int8) take(rows.steps, rows.capacity * rows.blocks * 4);
  if (sums) take(rows.sums, rows.capacity * rows.blocks * 4);
  return plan;
}

void prepare_rows(const Operand &x, const Rows &rows, Launcher &launcher) {
  const int64_t written =
      rows.capacity * rows.stride * rows.planes * (rows.form == RowForm::int8 ? 1 : 2) +
      rows.capacity * rows.blocks * 4 * ((rows.steps.present() ? 1 : 0) + (rows.sums.present() ? 1 : 0));
  const bool twice = rows.form == RowForm::int8 && rows.blocks == 1;
  launcher.run({"prepare_rows", dtype_bytes(x.dtype, x.elements()) * (twice ? 2 : 1) + written, x.elements()},
               prepare_rows_kernel, {dim3(blocks_for(rows.capacity, 1)), prepare_threads, 256},
               PrepareArguments{x.place, rows});
}

}  // namespace moe::cuda
