// Prepares activations for the matrix products of a linear (rows.h): planes of 16-bit floats or quantized codes, padded with
// zeros, and a sum for each block of columns.
//
// Layout: x [rows, width] row-major, f32, f16 or bf16; the result as rows.h says. A thread block a row; a warp takes 128
// columns at a time, four neighbours a lane, so that a block of 32, 64 or 128 columns is 8, 16 or 32 lanes.
// Bound: bytes: x once (twice where a whole row shares a step, from the cache), the result once. Share reached: not measured
// on a GPU yet.
#include "host/launcher.h"
#include "linear/prepare_rows.h"
#include "linear/quantize.h"
#include "linear/weight_fragment.h"
#include "moe/dtype.h"

namespace moe::cuda {

inline constexpr int prepare_threads = 256, prepare_warps = prepare_threads / warp_lanes;

struct PrepareArguments {
  Place x;
  Rows rows;
};

// As split_bf16 into three, but for the largest floats, which must not be rounded up to infinity: what is over goes into the
// other parts.
__device__ __forceinline__ void split_f32(float low, float high, uint32_t (&pairs)[3]) {
  const auto first_part = [](float value) {
    constexpr float most = 3.38953139e38f;  // of bf16
    return isfinite(value) && fabsf(value) > most ? copysignf(most, value) : value;
  };
  pairs[0] = ptx::pack_bf16(first_part(low), first_part(high));
  const float first = __uint_as_float(pairs[0] << 16), second = __uint_as_float(pairs[0] & 0xffff0000u);
  uint32_t rest[2];
  split_bf16(isfinite(first) ? low - first : 0.0f, isfinite(second) ? high - second : 0.0f, rest);
  pairs[1] = rest[0];
  pairs[2] = rest[1];
}

__device__ __forceinline__ void store_planes(const PrepareArguments &a, uint16_t *data, int64_t row, int64_t column,
                                             const Vector<4> &v) {
  const Rows &rows = a.rows;
  uint32_t low[3]{}, high[3]{};
  if (rows.form == RowForm::f16) {
    low[0] = ptx::pack_f16(v.element[0], v.element[1]);
    high[0] = ptx::pack_f16(v.element[2], v.element[3]);
  } else {
    split_f32(v.element[0], v.element[1], low);
    split_f32(v.element[2], v.element[3], high);
  }
#pragma unroll
  for (int plane = 0; plane < 3; ++plane)
    if (plane < rows.planes)
      ptx::store(reinterpret_cast<uint2 *>(data + (plane * rows.capacity + row) * rows.stride + column),
                 make_uint2(low[plane], high[plane]));
}

// Row `row` as floats, by all threads of the block.
__device__ __forceinline__ void split_row(const Frame *frame, const PrepareArguments &a, int64_t row,
                                          const SharedArray<float> &partial) {
  const Rows &to = a.rows;
  const std::byte *const x = at<std::byte>(frame, a.x) + row * to.width * (a.x.dtype == MOE_F32 ? 4 : 2);
  float *const sums = at<float>(frame, to.sums);
  const bool whole = to.blocks == 1, aligned = to.width % 4 == 0;
  const int lane = lane_of_thread(), lanes = whole ? warp_lanes : to.block / 4;  // of one block
  float row_sum = 0;
  // Warps stay together: all lanes take part in the exchanges below.
  for (int64_t start = warp_of_thread() * piece_columns; start < to.stride; start += prepare_warps * piece_columns) {
    const int64_t column = start + 4 * lane;
    const int left = static_cast<int>(to.width - column);
    const Vector<4> v = widen(a.x.dtype, aligned ? load_piece<true>(a.x.dtype, x, column, left)
                                                 : load_piece<false>(a.x.dtype, x, column, left));
    if (column < to.stride) store_planes(a, at<uint16_t>(frame, to.data), row, column, v);
    const float own = (v.element[0] + v.element[1]) + (v.element[2] + v.element[3]);
    row_sum += own;
    if (sums == nullptr || whole) continue;
    const float total = warp_reduce(own, Add(), lanes);
    if (lane % lanes == 0 && left > 0) ptx::store(sums + row * to.blocks + column / to.block, total);
  }
  if (!whole || sums == nullptr) return;
  row_sum = block_reduce(row_sum, Add(), partial);
  if (threadIdx.x == 0) ptx::store(sums + row, row_sum);
}

__global__ void __launch_bounds__(prepare_threads) prepare_rows_kernel(const Frame *frame, PrepareArguments a) {
  SharedCutter cut;
  const SharedArray<float> partial = cut.take<float>(prepare_warps);
  const SharedArray<int32_t> partial_codes = cut.take<int32_t>(prepare_warps);
  const int64_t row = blockIdx.x;
  if (row >= rows(frame, a.x)) return;
  const RowTeams team(prepare_warps, partial_codes);
  if (a.rows.form != RowForm::int8) {
    split_row(frame, a, row, partial);
  } else if (a.rows.width % 4 == 0) {
    quantize_row<true>(frame, a.x, a.rows, row, true, team);
  } else {
    quantize_row<false>(frame, a.x, a.rows, row, true, team);
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

int64_t preparation_bytes(const Operand &x, const Rows &rows) {
  const int64_t written =
      rows.capacity * rows.stride * rows.planes * (rows.form == RowForm::int8 ? 1 : 2) +
      rows.capacity * rows.blocks * 4 * ((rows.steps.present() ? 1 : 0) + (rows.sums.present() ? 1 : 0));
  const bool twice = rows.form == RowForm::int8 && rows.blocks == 1;
  return dtype_bytes(x.dtype, x.elements()) * (twice ? 2 : 1) + written;
}

void prepare_rows(const Operand &x, const Rows &rows, Launcher &launcher) {
  launcher.run({"prepare_rows", preparation_bytes(x, rows), x.elements()}, prepare_rows_kernel,
               {dim3(blocks_for(rows.capacity, 1)), prepare_threads, 256}, PrepareArguments{x.place, rows});
}

}  // namespace moe::cuda
