// accumulate: adds a statistic of this run into an f64 state: counts of ids, Σ g^p · x[r], Σ g^p · ‖x[r]‖₂; the Gram matrix
// is in accumulate_gram.cu.
//
// Layout: a [R, W] row-major, f32, f16 or bf16; state f64 [S, …], dense. No sum depends on timing.
// count: a block has 1024 ids of the state, counts them in shared memory over all choices, and adds the counts.
// sum: a block has a slot and 8 vectors of columns; its threads take the slot's rows in turn, f32 each, and are added
// pairwise, then in f64.
// norm_sum: the norms of all rows go to scratch, then a block a slot adds them in f64.
// Bound: bytes. Share reached: not measured on a GPU yet.
#include "host/launcher.h"
#include "kernel/reduce.h"
#include "kernel/vector.h"
#include "moe/dtype.h"
#include "operations/accumulate.h"

namespace moe::cuda {

// ---- count ---------------------------------------------------------------------------------------------------------- //

struct CountArguments {
  Place ids, state;
  int64_t top_k, states;
};

inline constexpr unsigned count_threads = 1024;

__global__ void __launch_bounds__(count_threads) count_kernel(const Frame *frame, CountArguments a) {
  SharedCutter shared;
  const SharedArray<int32_t> counts = shared.take<int32_t>(count_threads);
  const auto thread = static_cast<int>(threadIdx.x);
  counts[thread] = 0;
  __syncthreads();
  const int32_t *const ids = at<int32_t>(frame, a.ids);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * count_threads, choices = rows(frame, a.ids) * a.top_k;
  for (int64_t i = thread; i < choices; i += count_threads) {
    const int64_t id = ptx::load(ids + i) - first;
    if (id >= 0 && id < count_threads) atomicAdd(counts.data() + id, 1);
  }
  __syncthreads();
  double *const state = at<double>(frame, a.state) + first + thread;
  if (first + thread < a.states && counts[thread] != 0) ptx::store(state, ptx::load(state) + counts[thread]);
}

// ---- sum ------------------------------------------------------------------------------------------------------------ //

inline constexpr int sum_threads = 512, sum_across = 8, sum_rows = sum_threads / sum_across, sum_each = 4;

template <int count>
__global__ void __launch_bounds__(sum_threads) sum_kernel(const Frame *frame, AccumulateArguments a) {
  constexpr int columns = sum_across * count;
  SharedCutter shared;
  const SharedArray<float> partial = shared.take<float>(sum_threads / 32 * columns);
  const auto thread = static_cast<int>(threadIdx.x);
  const int64_t slot = blockIdx.x, first = static_cast<int64_t>(blockIdx.y) * columns;
  const RowRange range = rows_of_slot(frame, a, slot);
  if (range.begin == range.end) return;
  const void *const x = at<void>(frame, a.a);
  const float *const gate_of = at<float>(frame, a.gate_of);
  const int64_t column = first + thread % sum_across * count;
  Vector<count> sum = {};
  if (column < a.width) {
    for (int64_t row = range.begin + thread / sum_across; row < range.end; row += sum_each * sum_rows) {
      Packed<count> packed[sum_each] = {};
      float weight[sum_each] = {};
#pragma unroll
      for (int i = 0; i < sum_each; ++i) {
        const int64_t own = row + i * sum_rows;
        if (own >= range.end) continue;
        packed[i] = load_packed<count>(a.a.dtype, x, own * a.width + column);
        weight[i] = weight_of(gate_of, a.power, own);
      }
#pragma unroll
      for (int i = 0; i < sum_each; ++i) {
        const Vector<count> v = widen(a.a.dtype, packed[i]);
#pragma unroll
        for (int k = 0; k < count; ++k) sum.element[k] += weight[i] * v.element[k];
      }
    }
  }
#pragma unroll
  for (int k = 0; k < count; ++k) {
    float value = sum.element[k];
    for (int step = sum_across; step < 32; step *= 2) value += __shfl_xor_sync(whole_warp, value, step);
    if (lane_of_thread() < sum_across) partial[warp_of_thread() * columns + lane_of_thread() * count + k] = value;
  }
  __syncthreads();
  if (thread >= columns || first + thread >= a.width) return;
  double *const state = at<double>(frame, a.state) + slot * a.width + first + thread;
  double total = ptx::load(state);
  for (int warp = 0; warp < sum_threads / 32; ++warp) total += static_cast<double>(partial[warp * columns + thread]);
  ptx::store(state, total);
}

// ---- norm_sum ------------------------------------------------------------------------------------------------------- //

struct NormsArguments {
  AccumulateArguments of;
  Place norms;
  RowShape shape;
};

inline constexpr int norms_most_threads = 256, norms_each = 4;

template <int count>
__global__ void __launch_bounds__(norms_most_threads) row_norms_kernel(const Frame *frame, NormsArguments a) {
  SharedCutter shared;
  const SharedArray<float> partial = shared.take<float>(norms_most_threads / 32);
  const auto thread = static_cast<int>(threadIdx.x);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * a.shape.rows_per_block;
  const int64_t row = first_row + thread / a.shape.lanes, all = rows(frame, a.of.a);
  if (first_row >= all) return;
  const void *const x = at<void>(frame, a.of.a);
  float squares = 0;
  // Lanes of a warp sum together, so those past the last row stay.
  const int64_t vectors = row < all ? a.of.width / count : 0;
  for (int64_t first = thread % a.shape.lanes; first < vectors; first += int64_t{norms_each} * a.shape.lanes) {
    Packed<count> packed[norms_each] = {};
#pragma unroll
    for (int i = 0; i < norms_each; ++i)
      if (first + i * a.shape.lanes < vectors)
        packed[i] = load_packed<count>(a.of.a.dtype, x, row * a.of.width + (first + i * a.shape.lanes) * count);
#pragma unroll
    for (int i = 0; i < norms_each; ++i) {
      const Vector<count> v = widen(a.of.a.dtype, packed[i]);
#pragma unroll
      for (int k = 0; k < count; ++k) squares += v.element[k] * v.element[k];
    }
  }
  squares = a.shape.lanes > 32 ? block_reduce(squares, Add{}, partial) : warp_reduce(squares, Add{}, a.shape.lanes);
  if (row < all && thread % a.shape.lanes == 0) ptx::store(at<float>(frame, a.norms) + row, sqrtf(squares));
}

inline constexpr int norm_sum_threads = 256;

__global__ void __launch_bounds__(norm_sum_threads) norm_sum_kernel(const Frame *frame, NormsArguments a) {
  SharedCutter shared;
  const SharedArray<double> partial = shared.take<double>(norm_sum_threads / 32);
  const int64_t slot = blockIdx.x;
  const RowRange range = rows_of_slot(frame, a.of, slot);
  if (range.begin == range.end) return;
  const float *const norms = at<float>(frame, a.norms);
  const float *const gate_of = at<float>(frame, a.of.gate_of);
  double sum = 0;
  for (int64_t row = range.begin + threadIdx.x; row < range.end; row += norm_sum_threads)
    sum += static_cast<double>(weight_of(gate_of, a.of.power, row)) * static_cast<double>(ptx::load(norms + row));
  sum = block_reduce(sum, Add{}, partial);
  double *const state = at<double>(frame, a.of.state) + slot;
  if (threadIdx.x == 0) ptx::store(state, ptx::load(state) + sum);
}

// ---- the node --------------------------------------------------------------------------------------------------------- //

namespace {

void launch_count(const Node &node, Launcher &launcher) {
  const Operand &ids = node.input[0], &state = node.input[4];
  const unsigned blocks = blocks_for(state.elements(), count_threads);
  launcher.run({"count", 4 * ids.elements() * blocks + 16 * state.elements(), ids.elements()}, count_kernel,
               {dim3(blocks), count_threads, sizeof(int32_t) * count_threads},
               CountArguments{ids.place, state.place, ids.width(), state.elements()});
}

void launch_sum(const Operand &x, Launcher &launcher, const AccumulateArguments &arguments) {
  with_vector(x.dtype, x.width(), [&](auto count) {
    constexpr int columns = sum_across * count;
    const unsigned across = blocks_for(x.width(), columns);
    const int64_t bytes = dtype_bytes(x.dtype, x.elements()) + 4 * x.rows() * across + 8 * arguments.slots * across +
                          16 * arguments.slots * x.width();
    launcher.run(
        {"sum", bytes, 2 * x.elements()}, sum_kernel<count>,
        {dim3(static_cast<unsigned>(arguments.slots), across), sum_threads, sizeof(float) * sum_threads / 32 * columns},
        arguments);
  });
}

void launch_norm_sum(const Node &node, Launcher &launcher, const AccumulateArguments &of) {
  const Operand &x = node.input[0];
  with_vector(x.dtype, x.width(), [&](auto count) {
    const NormsArguments arguments{of, node.scratch, row_shape(x.width() / count, norms_each, norms_most_threads)};
    launcher.run({"row_norms", dtype_bytes(x.dtype, x.elements()) + 4 * x.rows(), 2 * x.elements()},
                 row_norms_kernel<count>,
                 {dim3(blocks_for(x.rows(), arguments.shape.rows_per_block)), arguments.shape.threads,
                  sizeof(float) * norms_most_threads / 32},
                 arguments);
    launcher.run({"norm_sum", 8 * x.rows() + 24 * of.slots, 2 * x.rows()}, norm_sum_kernel,
                 {dim3(static_cast<unsigned>(of.slots)), norm_sum_threads, sizeof(double) * norm_sum_threads / 32},
                 arguments);
  });
}

}  // namespace

int64_t scratch_accumulate(const Device &, const Node &node) {
  return node.as<moe_accumulate>().statistic == MOE_NORM_SUM ? 4 * node.input[0].rows() : 0;
}

void launch_accumulate(const Node &node, Launcher &launcher) {
  const auto &[statistic, power] = node.as<moe_accumulate>();
  if (statistic == MOE_COUNT) return launch_count(node, launcher);
  const Operand &a = node.input[0], &b = node.input[1], &offsets = node.input[2];
  const AccumulateArguments arguments{a.place,
                                      b.place,
                                      offsets.place,
                                      node.input[3].place,
                                      node.input[4].place,
                                      a.width(),
                                      b ? b.width() : a.width(),
                                      offsets ? offsets.elements() - 1 : 1,
                                      power};
  if (statistic == MOE_SUM) return launch_sum(a, launcher, arguments);
  if (statistic == MOE_NORM_SUM) return launch_norm_sum(node, launcher, arguments);
  launch_gram(node, launcher, arguments);
}

}  // namespace moe::cuda
