// combine: per token the sum of its distinct rows times their gates, with a shared expert and a residual; or, with onto,
// the same terms summed into the rows of a second routing.
//
// Layout: rows [R, H], shared, residual, y [T or R, H] row-major, f32, f16 or bf16 each; row_of, onto i32 [T, K]. A block
// has one token and some columns; it first writes down the token's rows and gates in shared memory. Sums in f32, in order
// of the choices.
// Bound: bytes. Share reached: not measured on a GPU yet.
#include "host/launcher.h"
#include "host/node.h"
#include "kernel/activation.h"
#include "kernel/shared.h"
#include "kernel/vector.h"
#include "moe/dtype.h"

namespace moe::cuda {

struct CombineArguments {
  Place rows, row_of, gate_of, shared, shared_gate, residual, onto, y;
  int64_t width;
  int32_t top_k;
};

inline constexpr unsigned combine_threads = 128;
inline constexpr int combine_rows = 4;  // under way at a time

// What a token chose. `row` is −1 where there is none or an earlier choice has it; `target` is there only with onto.
struct Choices {
  SharedArray<int32_t> named, row, target;
  SharedArray<float> gate;
};

__device__ __forceinline__ Choices choices_of(const Frame *frame, const CombineArguments &a, int64_t token) {
  SharedCutter shared;
  const int count = a.top_k;
  Choices c{shared.take<int32_t>(count), shared.take<int32_t>(count), shared.take<int32_t>(count),
            shared.take<float>(count)};
  const int64_t first = token * count, all = rows(frame, a.gate_of);
  const int32_t *const row_of = at<int32_t>(frame, a.row_of) + first;
  const int32_t *const onto = at<int32_t>(frame, a.onto);
  const float *const gate_of = at<float>(frame, a.gate_of);
  for (int j = static_cast<int>(threadIdx.x); j < count; j += static_cast<int>(combine_threads)) {
    const int32_t row = ptx::load(row_of + j);
    c.named[j] = row >= 0 && row < all ? row : -1;
    c.target[j] = onto ? ptx::load(onto + first + j) : 0;
  }
  __syncthreads();
  for (int j = static_cast<int>(threadIdx.x); j < count; j += static_cast<int>(combine_threads)) {
    int32_t row = c.named[j];
    for (int before = 0; before < j; ++before)
      if (c.named[before] == row) row = -1;
    c.row[j] = row;
    c.gate[j] = row >= 0 ? ptx::load(gate_of + row) : 0.0f;
  }
  __syncthreads();
  return c;
}

// sum += Σ gate · rows over the choices that go to `target`.
template <int count>
__device__ __forceinline__ void add_rows(const CombineArguments &a, const Choices &c, const void *from, int32_t target,
                                         int64_t column, Vector<count> &sum) {
  for (int first = 0; first < a.top_k; first += combine_rows) {
    Packed<count> packed[combine_rows] = {};
    const auto counts = [&](int j) { return j < a.top_k && c.row[j] >= 0 && c.target[j] == target; };
#pragma unroll
    for (int i = 0; i < combine_rows; ++i)
      if (counts(first + i)) packed[i] = load_packed<count>(a.rows.dtype, from, c.row[first + i] * a.width + column);
#pragma unroll
    for (int i = 0; i < combine_rows; ++i) {
      if (!counts(first + i)) continue;
      const float gate = c.gate[first + i];
      const Vector<count> row = widen(a.rows.dtype, packed[i]);
#pragma unroll
      for (int k = 0; k < count; ++k) sum.element[k] += gate * row.element[k];
    }
  }
}

template <int count>
__global__ void __launch_bounds__(combine_threads, 8) combine_kernel(const Frame *frame, CombineArguments a) {
  const int64_t token = blockIdx.x;
  if (token >= rows(frame, a.row_of)) return;
  const Choices c = choices_of(frame, a, token);
  const int64_t column = count * (static_cast<int64_t>(blockIdx.y) * combine_threads + threadIdx.x);
  if (column >= a.width) return;
  const void *const from = at<void>(frame, a.rows);
  void *const y = at<void>(frame, a.y);
  if (a.onto.present()) {
    const int64_t targets = rows(frame, a.y);
    for (int j = 0; j < a.top_k; ++j) {
      const int32_t target = c.target[j];
      bool first = target >= 0 && target < targets;
      for (int before = 0; before < j; ++before) first = first && c.target[before] != target;
      if (!first) continue;
      Vector<count> sum = {};
      add_rows(a, c, from, target, column, sum);
      store_vector(a.y.dtype, y, target * a.width + column, sum);
    }
    return;
  }
  const int64_t place = token * a.width + column;
  const void *const residual = at<void>(frame, a.residual);
  const void *const shared = at<void>(frame, a.shared);
  Packed<count> of_residual = {}, of_shared = {};
  if (residual) of_residual = load_packed<count>(a.residual.dtype, residual, place);
  if (shared) of_shared = load_packed<count>(a.shared.dtype, shared, place);
  Vector<count> sum = widen(a.residual.dtype, of_residual);
  add_rows(a, c, from, 0, column, sum);
  if (shared) {
    const void *const shared_gate = at<void>(frame, a.shared_gate);
    const float gate = shared_gate ? sigmoid(load_float(a.shared_gate.dtype, shared_gate, token)) : 1.0f;
    const Vector<count> v = widen(a.shared.dtype, of_shared);
#pragma unroll
    for (int k = 0; k < count; ++k) sum.element[k] += gate * v.element[k];
  }
  store_vector(a.y.dtype, y, place, sum);
}

namespace {

size_t combine_shared_bytes(const Node &node) {
  constexpr size_t arrays = 4, alignment = 16;
  return arrays * (static_cast<size_t>(node.input[1].width()) * 4 + alignment);
}

}  // namespace

int64_t scratch_combine(const Device &device, const Node &node) {
  if (combine_shared_bytes(node) > device.shared_bytes())
    throw Error(MOE_UNSUPPORTED, "rowOf", "at most " + std::to_string(device.shared_bytes() / 16 - 4) + " choices",
                std::to_string(node.input[1].width()));
  return 0;
}

void launch_combine(const Node &node, Launcher &launcher) {
  const auto &in = node.input;
  const Operand &rows = in[0], &row_of = in[1], &shared = in[3], &residual = in[5], &y = node.output[0];
  const int64_t width = y.width(), choices = row_of.elements();
  const CombineArguments arguments{
      rows.place,     row_of.place, in[2].place, shared.place, in[4].place,
      residual.place, in[6].place,  y.place,     width,        static_cast<int32_t>(row_of.width())};
  int64_t bytes = dtype_bytes(rows.dtype, choices * width);
  for (const Operand *operand : {&shared, &residual, &y})
    if (*operand) bytes += dtype_bytes(operand->dtype, operand->elements());
  with_vector(widest_float({rows.dtype, shared.dtype, residual.dtype, y.dtype}), width, [&](auto count) {
    const unsigned across = blocks_for(width, int64_t{count} * combine_threads);
    const int64_t of_choices = (in[6] ? 12 : 8) * choices * across;
    launcher.run({"combine", bytes + of_choices, 2 * choices * width}, combine_kernel<count>,
                 {dim3(blocks_for(row_of.rows(), 1), across), combine_threads, combine_shared_bytes(node)}, arguments);
  });
}

}  // namespace moe::cuda
