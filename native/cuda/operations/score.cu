// score: log p[v] = x[v] − highest − log Σ exp(x − highest) over the logits of a token, of a given id and of the top_k
// largest.
//
// Layout: logits [T, V] row-major, f32, f16 or bf16; ids i32 [T]; the results f32 and i32, [T] and [T, top_k]. A block a
// token reads the logits once: each thread keeps the highest so far, the sum of exponentials relative to it, and its best
// logit. Then the first warp takes top_k times the best of all threads, and looks at that one thread's logits again for
// the best of those left.
// Bound: bytes. Share reached: not measured on a GPU yet.
#include "host/launcher.h"
#include "host/node.h"
#include "kernel/reduce.h"
#include "kernel/vector.h"
#include "moe/dtype.h"

namespace moe::cuda {

struct ScoreArguments {
  Place logits, ids, of_ids, top_ids, of_top;
  int64_t width;
  int32_t top_k;
};

inline constexpr int score_most_threads = 1024, score_each = 4;

// As operations.h wants logits to be read: NaN is the lowest.
__device__ __forceinline__ float clean_logit(float v) { return v > -3e38f ? (v < 3e38f ? v : 3e38f) : -3e38f; }

// Orders by logit, then the lower id first; 0 is below all.
__device__ __forceinline__ uint64_t key_of(float logit, int64_t id) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);  // −0 is 0
  const uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
__device__ __forceinline__ int32_t id_of(uint64_t key) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key));
}
__device__ __forceinline__ float logit_of(uint64_t key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float((ordered & 0x80000000u) != 0 ? ordered & 0x7fffffffu : ~ordered);
}

template <int count>
struct ScoreRow {
  int32_t dtype;
  const void *logits;
  int64_t begin, vectors;

  __device__ __forceinline__ Packed<count> load(int64_t vector) const {
    return load_packed<count>(dtype, logits, begin + vector * count);
  }
  __device__ __forceinline__ Vector<count> clean(const Packed<count> &packed) const {
    Vector<count> v = widen(dtype, packed);
#pragma unroll
    for (int k = 0; k < count; ++k) v.element[k] = clean_logit(v.element[k]);
    return v;
  }
};

// What a thread has seen: the highest logit, Σ exp(x − highest), and the lowest id of the highest.
struct Seen {
  float highest = -3e38f, total = 0;
  int64_t best = -1;
};

template <int count>
__device__ __forceinline__ void see(const Vector<count> &v, int64_t first, Seen &seen) {
  float highest = seen.highest;
#pragma unroll
  for (int k = 0; k < count; ++k) {
    if (v.element[k] > highest || seen.best < 0) {
      highest = v.element[k];
      seen.best = first + k;
    }
  }
  if (highest != seen.highest) seen.total *= expf(seen.highest - highest);
  seen.highest = highest;
#pragma unroll
  for (int k = 0; k < count; ++k) seen.total += expf(v.element[k] - highest);
}

// The best key below `last` among the vectors of one thread; the whole first warp looks.
template <int count>
__device__ __forceinline__ uint64_t best_below(const ScoreRow<count> &row, int owner, uint64_t last) {
  uint64_t best = 0;
  const int64_t threads = blockDim.x;
  for (int64_t vector = owner + lane_of_thread() * threads; vector < row.vectors; vector += 32 * threads) {
    const Vector<count> v = row.clean(row.load(vector));
#pragma unroll
    for (int k = 0; k < count; ++k) {
      const uint64_t key = key_of(v.element[k], vector * count + k);
      if (key < last && key > best) best = key;
    }
  }
  return warp_reduce(best, Largest{});
}

template <int count>
__global__ void __launch_bounds__(score_most_threads) score_kernel(const Frame *frame, ScoreArguments a) {
  const int64_t token = blockIdx.x;
  if (token >= rows(frame, a.logits)) return;
  SharedCutter shared;
  const SharedArray<float> partial = shared.take<float>(score_most_threads / 32);
  const SharedArray<uint64_t> keys = shared.take<uint64_t>(score_most_threads);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const ScoreRow<count> row{a.logits.dtype, at<void>(frame, a.logits), token * a.width, a.width / count};
  Seen seen;
  for (int64_t first = thread; first < row.vectors; first += int64_t{score_each} * threads) {
    Packed<count> packed[score_each] = {};
#pragma unroll
    for (int i = 0; i < score_each; ++i)
      if (first + i * threads < row.vectors) packed[i] = row.load(first + i * threads);
#pragma unroll
    for (int i = 0; i < score_each; ++i)
      if (first + i * threads < row.vectors) see(row.clean(packed[i]), (first + i * threads) * count, seen);
  }
  keys[thread] = seen.best < 0 ? 0 : key_of(seen.highest, seen.best);
  const float highest = block_reduce(seen.highest, Largest{}, partial);
  const float log_total = logf(block_reduce(seen.total * expf(seen.highest - highest), Add{}, partial));

  float *const of_ids = at<float>(frame, a.of_ids);
  if (of_ids && thread == 0) {
    const int64_t id = ptx::load(at<int32_t>(frame, a.ids) + token);
    float result = 0;
    if (id >= 0 && id < a.width)
      result = clean_logit(load_float(row.dtype, row.logits, row.begin + id)) - highest - log_total;
    ptx::store(of_ids + token, result);
  }
  if (warp_of_thread() != 0) return;
  const int lane = lane_of_thread();
  const auto best_of_lane = [&] {
    uint64_t best = 0;
    for (int i = lane; i < threads; i += 32) best = keys[i] > best ? keys[i] : best;
    return best;
  };
  int32_t *const top_ids = at<int32_t>(frame, a.top_ids);
  float *const of_top = at<float>(frame, a.of_top);
  uint64_t best = best_of_lane();
  for (int64_t j = 0; j < a.top_k; ++j) {
    const uint64_t chosen = warp_reduce(best, Largest{});
    const int32_t id = id_of(chosen);
    if (lane == 0 && top_ids) ptx::store(top_ids + token * a.top_k + j, id);
    if (lane == 0 && of_top) ptx::store(of_top + token * a.top_k + j, logit_of(chosen) - highest - log_total);
    const int owner = id / count % threads;
    const uint64_t next = best_below(row, owner, chosen);
    if (owner % 32 == lane) {
      keys[owner] = next;
      best = best_of_lane();
    }
  }
}

int64_t scratch_score(const Device &, const Node &) { return 0; }

void launch_score(const Node &node, Launcher &launcher) {
  const Operand &logits = node.input[0];
  const int64_t width = logits.width(), tokens = logits.rows();
  const int32_t top_k = node.as<moe_score>().top_k;
  const ScoreArguments arguments{
      logits.place, node.input[1].place, node.output[0].place, node.output[1].place, node.output[2].place, width,
      top_k};
  with_vector(logits.dtype, width, [&](auto count) {
    const int64_t vectors = width / count;
    unsigned threads = 32;
    while (threads < score_most_threads && threads * score_each < vectors) threads *= 2;
    const int64_t again = top_k * ((vectors + threads - 1) / threads) * count;  // logits, of a token
    const int64_t bytes = dtype_bytes(logits.dtype, tokens * (width + again)) + tokens * 8 * (1 + top_k);
    launcher.run({"score", bytes, 4 * logits.elements()}, score_kernel<count>,
                 {dim3(blocks_for(tokens, 1)), threads,
                  sizeof(float) * score_most_threads / 32 + sizeof(uint64_t) * score_most_threads},
                 arguments);
  });
}

}  // namespace moe::cuda
