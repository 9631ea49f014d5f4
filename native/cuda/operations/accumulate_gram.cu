// The Gram matrix of accumulate: state[s] += Σ_r g^p · a[r]ᵀ b[r] over the rows of slot s.
//
// Layout: a [R, Wa], b [R, Wb] row-major, f32, f16 or bf16; state f64 [S, Wa, Wb]. A block has a tile of 128 × 128 of one
// slot's state. It brings 16 rows at a time into two panels of f32 in shared memory, a's times g^p, while the panels of
// the rows before are multiplied: 8 × 8 sums a thread in f32 registers. At the end the sums are added to the state.
// Where b is a, tiles below the diagonal are the mirror of those above.
// Bound: operations, 2·R·Wa·Wb multiplications and additions in f32 (half of it where b is a). Share reached: not measured
// on a GPU yet.
#include <numeric>

#include "host/launcher.h"
#include "kernel/shared.h"
#include "kernel/vector.h"
#include "moe/dtype.h"
#include "operations/accumulate.h"

namespace moe::cuda {

inline constexpr int gram_tile = 128, gram_depth = 16, gram_threads = 256;
inline constexpr int gram_panel = gram_depth * gram_tile;
// A thread's 8 rows and columns are two runs of 4, half a tile apart: so a warp reads neighbours.
inline constexpr int gram_run = 4, gram_half = gram_tile / 2;
// Half a tile of sums on its way to the state lies where the panels were; its rows are apart so that columns are too.
inline constexpr int gram_stride = gram_tile + 4, gram_shared = gram_half * gram_stride;
static_assert(gram_shared >= 4 * gram_panel);

struct GramTile {
  int64_t slot, top, side;  // first row and column
};

__device__ __forceinline__ GramTile gram_tile_of(const AccumulateArguments &a, int64_t block) {
  const int64_t down = (a.width + gram_tile - 1) / gram_tile, across = (a.second + gram_tile - 1) / gram_tile;
  if (a.b.present()) {
    const int64_t tile = block % (down * across);
    return {block / (down * across), tile / across * gram_tile, tile % across * gram_tile};
  }
  const int64_t upper = down * (down + 1) / 2;
  int64_t tile = block % upper, row = 0;
  for (; tile >= down - row; ++row) tile -= down - row;
  return {block / upper, row * gram_tile, (row + tile) * gram_tile};
}

// A thread's part of a panel on its way from global to shared memory.
template <int count>
struct GramPart {
  static constexpr int vectors = gram_panel / count / gram_threads, across = gram_tile / count;
  Packed<count> packed[vectors] = {};

  __device__ __forceinline__ static int row(int i) {
    return (static_cast<int>(threadIdx.x) + i * gram_threads) / across;
  }
  __device__ __forceinline__ static int column(int i) {
    return (static_cast<int>(threadIdx.x) + i * gram_threads) % across * count;
  }
  __device__ __forceinline__ void load(int32_t dtype, const void *x, int64_t width, int64_t first_row, int64_t end,
                                       int64_t first_column) {
#pragma unroll
    for (int i = 0; i < vectors; ++i) {
      packed[i] = {};
      if (first_row + row(i) < end && first_column + column(i) < width)
        packed[i] = load_packed<count>(dtype, x, (first_row + row(i)) * width + first_column + column(i));
    }
  }
  __device__ __forceinline__ void store(int32_t dtype, float *panel, int i, float weight) const {
    const Vector<count> v = widen(dtype, packed[i]);
    float *const to = panel + row(i) * gram_tile + column(i);
    if constexpr (count == 1) {
      ptx::store_shared(to, weight * v.element[0]);
    } else {
#pragma unroll
      for (int k = 0; k < count; k += 4)
        ptx::store_shared(reinterpret_cast<float4 *>(to + k),
                          make_float4(weight * v.element[k], weight * v.element[k + 1], weight * v.element[k + 2],
                                      weight * v.element[k + 3]));
    }
  }
};

struct GramSums {
  float of[2 * gram_run][2 * gram_run];
};

__device__ __forceinline__ void load_runs(const float *row, int run, float (&to)[2 * gram_run]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float4 v = ptx::load_shared(reinterpret_cast<const float4 *>(row + half * gram_half + run * gram_run));
    to[4 * half] = v.x, to[4 * half + 1] = v.y, to[4 * half + 2] = v.z, to[4 * half + 3] = v.w;
  }
}

__device__ __forceinline__ void multiply_panels(const float *left, const float *right, GramSums &sums) {
  const int down = static_cast<int>(threadIdx.x) / 16, across = static_cast<int>(threadIdx.x) % 16;
#pragma unroll
  for (int r = 0; r < gram_depth; ++r) {
    float a[2 * gram_run], b[2 * gram_run];
    load_runs(left + r * gram_tile, down, a);
    load_runs(right + r * gram_tile, across, b);
#pragma unroll
    for (int i = 0; i < 2 * gram_run; ++i)
#pragma unroll
      for (int j = 0; j < 2 * gram_run; ++j) sums.of[i][j] = fmaf(a[i], b[j], sums.of[i][j]);
  }
}

// Half a tile at a time goes through `staged`, so that neighbours of the state are added by neighbouring threads.
__device__ __forceinline__ void add_sums(const AccumulateArguments &a, const GramTile &tile, const GramSums &sums,
                                         float *staged, double *state) {
  const int thread = static_cast<int>(threadIdx.x), down = thread / 16, across = thread % 16;
  const bool mirrored = !a.b.present() && tile.top != tile.side;
  const auto add = [&](int64_t row, int64_t column, int64_t width, float value) {
    double *const to = state + row * width + column;
    ptx::store(to, ptx::load(to) + static_cast<double>(value));
  };
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t top = tile.top + half * gram_half;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < gram_run; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float *const from = sums.of[half * gram_run + i] + j * gram_run;
        ptx::store_shared(reinterpret_cast<float4 *>(staged + (down * gram_run + i) * gram_stride + j * gram_half +
                                                     across * gram_run),
                          make_float4(from[0], from[1], from[2], from[3]));
      }
    __syncthreads();
    for (int i = thread; i < gram_half * gram_tile; i += gram_threads) {
      const int row = i / gram_tile, column = i % gram_tile;
      if (top + row < a.width && tile.side + column < a.second)
        add(top + row, tile.side + column, a.second, staged[row * gram_stride + column]);
    }
    if (!mirrored) continue;
    for (int i = thread; i < gram_half * gram_tile; i += gram_threads) {
      const int row = i % gram_half, column = i / gram_half;
      if (top + row < a.width && tile.side + column < a.second)
        add(tile.side + column, top + row, a.second, staged[row * gram_stride + column]);
    }
  }
  __syncthreads();
}

// Two blocks fit a multiprocessor where a vector is 8 elements; the addresses of more, shorter vectors take the registers.
template <int count>
__global__ void __launch_bounds__(gram_threads, count == 8 ? 2 : 1)
    gram_kernel(const Frame *frame, AccumulateArguments a) {
  SharedCutter shared;
  const SharedArray<float> panels = shared.take<float>(gram_shared);  // a's and b's, two stages
  const GramTile tile = gram_tile_of(a, blockIdx.x);
  const RowRange range = rows_of_slot(frame, a, tile.slot);
  const void *const from_a = at<void>(frame, a.a);
  const void *const from_b = a.b.present() ? at<void>(frame, a.b) : from_a;
  const int32_t dtype_b = a.b.present() ? a.b.dtype : a.a.dtype;
  const float *const gate_of = at<float>(frame, a.gate_of);
  double *const state = at<double>(frame, a.state) + tile.slot * a.width * a.second;
  int stage = 0;
  if (range.begin == range.end) return;
  GramSums sums{};
  GramPart<count> part_a, part_b;
  const auto load = [&](int64_t row) {
    part_a.load(a.a.dtype, from_a, a.width, row, range.end, tile.top);
    part_b.load(dtype_b, from_b, a.second, row, range.end, tile.side);
  };
  load(range.begin);
  for (int64_t row = range.begin; row < range.end; row += gram_depth, stage ^= 1) {
    float *const left = panels.data() + stage * 2 * gram_panel, *const right = left + gram_panel;
#pragma unroll
    for (int i = 0; i < GramPart<count>::vectors; ++i) {
      const int64_t own = row + part_a.row(i);
      part_a.store(a.a.dtype, left, i, own < range.end ? weight_of(gate_of, a.power, own) : 0.0f);
      part_b.store(dtype_b, right, i, 1);
    }
    __syncthreads();  // with two stages also keeps the next store from panels that are still read
    load(row + gram_depth);
    multiply_panels(left, right, sums);
  }
  add_sums(a, tile, sums, panels.data(), state);
}

void launch_gram(const Node &node, Launcher &launcher, const AccumulateArguments &arguments) {
  const Operand &a = node.input[0], &b = node.input[1];
  const int64_t down = (arguments.width + gram_tile - 1) / gram_tile;
  const int64_t across = (arguments.second + gram_tile - 1) / gram_tile;
  const int64_t tiles = b ? down * across : down * (down + 1) / 2;
  const int64_t read = gram_tile * a.rows() * tiles, element = dtype_bytes(a.dtype, 1);
  const int64_t bytes = read * (element + (b ? dtype_bytes(b.dtype, 1) : element)) + 4 * a.rows() * tiles * gram_tile +
                        16 * arguments.slots * arguments.width * arguments.second;
  const int64_t operations = 2 * a.rows() * tiles * gram_tile * gram_tile;
  with_vector(widest_float({a.dtype, b.dtype}), std::gcd(arguments.width, arguments.second), [&](auto count) {
    launcher.run({"gram", bytes, operations}, gram_kernel<count>,
                 {dim3(static_cast<unsigned>(arguments.slots * tiles)), gram_threads, sizeof(float) * gram_shared},
                 arguments);
  });
}

}  // namespace moe::cuda
