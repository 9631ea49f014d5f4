// norm: s = x + residual; each run of `width` elements of s becomes s / sqrt(mean(s²) + epsilon) · weight (rms), or
// (s − mean) / sqrt(mean((s − mean)²) + epsilon) · weight + bias (layer).
//
// Layout: x, residual, y, sum [T, W] row-major, f32, f16 or bf16 each; weight, bias [width]. A run is a row of the
// kernel. Its threads keep s in registers between the sums and the result; where a run is longer than they can hold,
// the rest is read again. Sums in f32, in an order that depends on `width` alone.
// Bound: bytes. Share reached: not measured on a GPU yet.
#include "host/launcher.h"
#include "host/node.h"
#include "kernel/reduce.h"
#include "kernel/vector.h"
#include "moe/dtype.h"

namespace moe::cuda {

struct NormArguments {
  Place x, weight, bias, residual, y, sum;
  int64_t runs_per_row, width;
  int32_t kind;
  float epsilon;
  RowShape shape;
};

inline constexpr int norm_most_threads = 512;

// Vectors that a thread keeps.
template <int count>
inline constexpr int norm_held = count == 8 ? 2 : 4;

// One run, as a thread sees it.
template <int count>
struct NormRun {
  const NormArguments &a;
  const void *x, *residual;
  int64_t begin;  // of the run, in elements of x
  int lane;
  Vector<count> held[norm_held<count>];

  __device__ __forceinline__ int64_t place(int i) const {
    return count * (static_cast<int64_t>(i) * a.shape.lanes + lane);
  }
  __device__ __forceinline__ void load() {
    constexpr int most = norm_held<count>;
    Packed<count> of_x[most] = {}, of_residual[most] = {};
#pragma unroll
    for (int i = 0; i < most; ++i) {
      if (place(i) >= a.width) continue;
      of_x[i] = load_packed<count>(a.x.dtype, x, begin + place(i));
      if (residual) of_residual[i] = load_packed<count>(a.residual.dtype, residual, begin + place(i));
    }
#pragma unroll
    for (int i = 0; i < most; ++i) held[i] = add(of_x[i], of_residual[i]);
  }
  __device__ __forceinline__ Vector<count> add(const Packed<count> &left, const Packed<count> &right) const {
    Vector<count> s = widen(a.x.dtype, left);
    if (!residual) return s;
    const Vector<count> other = widen(a.residual.dtype, right);
#pragma unroll
    for (int k = 0; k < count; ++k) s.element[k] += other.element[k];
    return s;
  }
  // visit(s, place) for each vector of this thread.
  template <typename Visit>
  __device__ __forceinline__ void each(const Visit &visit) const {
#pragma unroll
    for (int i = 0; i < norm_held<count>; ++i)
      if (place(i) < a.width) visit(held[i], place(i));
    for (int64_t k = place(norm_held<count>); k < a.width; k += count * static_cast<int64_t>(a.shape.lanes)) {
      Packed<count> of_residual = {};
      const Packed<count> of_x = load_packed<count>(a.x.dtype, x, begin + k);
      if (residual) of_residual = load_packed<count>(a.residual.dtype, residual, begin + k);
      visit(add(of_x, of_residual), k);
    }
  }
};

template <int count>
__global__ void __launch_bounds__(norm_most_threads) norm_kernel(const Frame *frame, NormArguments a) {
  SharedCutter shared;
  const SharedArray<float> partial = shared.take<float>(norm_most_threads / 32);
  const int of_block = static_cast<int>(threadIdx.x) / a.shape.lanes;
  const int64_t run = static_cast<int64_t>(blockIdx.x) * a.shape.rows_per_block + of_block;
  const int64_t runs = rows(frame, a.x) * a.runs_per_row;
  const bool whole_block = a.shape.lanes > 32;
  // Lanes of a warp sum together, so those past the last run work on it too and store nothing.
  if (static_cast<int64_t>(blockIdx.x) * a.shape.rows_per_block >= runs) return;
  const bool stores = run < runs;
  NormRun<count> s{a,
                   at<void>(frame, a.x),
                   at<void>(frame, a.residual),
                   (stores ? run : runs - 1) * a.width,
                   static_cast<int>(threadIdx.x) % a.shape.lanes,
                   {}};
  s.load();
  const auto total = [&](float value) {
    return whole_block ? block_reduce(value, Add{}, partial) : warp_reduce(value, Add{}, a.shape.lanes);
  };
  float mean = 0;
  if (a.kind == MOE_LAYER) {
    s.each([&](const Vector<count> &v, int64_t) {
#pragma unroll
      for (int k = 0; k < count; ++k) mean += v.element[k];
    });
    mean = total(mean) / static_cast<float>(a.width);
  }
  float squares = 0;
  s.each([&](const Vector<count> &v, int64_t) {
#pragma unroll
    for (int k = 0; k < count; ++k) squares += (v.element[k] - mean) * (v.element[k] - mean);
  });
  const float scale = 1.0f / sqrtf(total(squares) / static_cast<float>(a.width) + a.epsilon);
  if (!stores) return;
  const void *const weight = at<void>(frame, a.weight);
  const void *const bias = at<void>(frame, a.bias);
  void *const y = at<void>(frame, a.y);
  void *const sum = at<void>(frame, a.sum);
  s.each([&](const Vector<count> &v, int64_t place) {
    if (sum) store_vector(a.sum.dtype, sum, s.begin + place, v);
    Vector<count> result;
#pragma unroll
    for (int k = 0; k < count; ++k) result.element[k] = (v.element[k] - mean) * scale;
    if (weight) {
      const Vector<count> w = load_vector<count>(a.weight.dtype, weight, place);
#pragma unroll
      for (int k = 0; k < count; ++k) result.element[k] *= w.element[k];
    }
    if (bias) {
      const Vector<count> b = load_vector<count>(a.bias.dtype, bias, place);
#pragma unroll
      for (int k = 0; k < count; ++k) result.element[k] += b.element[k];
    }
    store_vector(a.y.dtype, y, s.begin + place, result);
  });
}

int64_t scratch_norm(const Device &, const Node &) { return 0; }

void launch_norm(const Node &node, Launcher &launcher) {
  const Operand &x = node.input[0], &weight = node.input[1], &bias = node.input[2], &residual = node.input[3];
  const Operand &y = node.output[0], &sum = node.output[1];
  const auto &attributes = node.as<moe_norm>();
  const int64_t width = attributes.width == 0 ? x.width() : attributes.width;
  int64_t bytes = 0;
  for (const Operand *operand : {&x, &residual, &y, &sum})
    if (*operand) bytes += dtype_bytes(operand->dtype, operand->elements());
  for (const Operand *operand : {&weight, &bias})  // from a cache, for all runs but the first
    if (*operand) bytes += dtype_bytes(operand->dtype, x.elements());
  with_vector(
      widest_float({x.dtype, weight.dtype, bias.dtype, residual.dtype, y.dtype, sum.dtype}), width, [&](auto count) {
        const RowShape shape = row_shape(width / count, norm_held<count>, norm_most_threads);
        const NormArguments arguments{x.place,   weight.place,      bias.place, residual.place,  y.place,
                                      sum.place, x.width() / width, width,      attributes.kind, attributes.epsilon,
                                      shape};
        const Grid grid{dim3(blocks_for(x.elements() / width, shape.rows_per_block)), shape.threads,
                        sizeof(float) * norm_most_threads / 32};
        launcher.run({"norm", bytes, 8 * x.elements()}, norm_kernel<count>, grid, arguments);
      });
}

}  // namespace moe::cuda
