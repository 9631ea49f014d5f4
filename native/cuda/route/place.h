// A stable counting sort of choices by bucket, then token: rows of the bank, or who comes first where a capacity drops.
//
// Each warp counts the choices of its own tokens, bucket by bucket; sums over the warps and blocks before it tell it where
// its first choice of each bucket goes; then it walks its tokens once more. No position is drawn from an atomic.
#pragma once
#include "route/arguments.h"
#include "route/team.h"

namespace moe::cuda {

struct Tally {
  SharedArray<int> next;     // [warps, buckets]
  SharedArray<int> start;    // [buckets + 1]: where the choices of this block begin
  SharedArray<int> base;     // [buckets + 1]: where those of all blocks begin; in a whole grid
  SharedArray<int> partial;  // [32]
  int stride;  // of a block's counts in scratch, the same in every pass: no block writes what another reads yet
};

// The choices of the same bucket among some of a token.
struct Alike {
  int before = 0, all = 1;
  double gate = 0;
};

// Ids and gates between the phases: in shared memory from the warp's first token on, or in global memory.
struct Chosen {
  int32_t *ids;
  float *gates;
  SharedArray<int32_t> staged_ids;
  SharedArray<float> staged_gates;
  int64_t first_token;
  int32_t top_k;
  bool staged;

  __device__ __forceinline__ int64_t index(int64_t token, int32_t j) const { return token * top_k + j; }
  __device__ __forceinline__ int staged_index(int64_t token, int32_t j) const {
    return static_cast<int>(token - first_token) * top_k + j;
  }
  __device__ __forceinline__ int32_t id(int64_t token, int32_t j) const {
    return staged ? ptx::load_shared(&staged_ids[staged_index(token, j)]) : ptx::load(ids + index(token, j));
  }
  __device__ __forceinline__ float gate(int64_t token, int32_t j) const {
    return staged ? ptx::load_shared(&staged_gates[staged_index(token, j)]) : ptx::load(gates + index(token, j));
  }
  __device__ __forceinline__ void set_id(int64_t token, int32_t j, int32_t id) const {
    if (staged) {
      ptx::store_shared(&staged_ids[staged_index(token, j)], id);
    } else {
      ptx::store(ids + index(token, j), id);
    }
  }
  __device__ __forceinline__ void set_gate(int64_t token, int32_t j, float gate) const {
    if (staged) {
      ptx::store_shared(&staged_gates[staged_index(token, j)], gate);
    } else {
      ptx::store(gates + index(token, j), gate);
    }
  }
};

// How the choices of a token are told apart.
template <typename BucketOf>
struct Choices {
  const Chosen &chosen;
  bool repeats;    // a bucket may come more than once in a token
  bool coalesces;  // and is one row then
  BucketOf bucket_of;

  __device__ __forceinline__ int bucket(int64_t token, int32_t j) const {
    return j < chosen.top_k ? bucket_of(chosen.id(token, j)) : -1;
  }
  // Of all the token's choices where they coalesce, else of the 32 that the warp is at.
  __device__ __forceinline__ Alike alike(int64_t token, int32_t first, int own, bool with_gates) const {
    Alike alike;
    if (!repeats) return alike;
    alike.all = 0;
    const int lane = lane_of_thread();
    const int32_t begin = coalesces ? 0 : first, end = coalesces ? chosen.top_k : min(chosen.top_k, first + 32);
    for (int32_t chunk = begin; chunk < end; chunk += 32) {
      const int others = chunk == first ? own : bucket(token, chunk + lane);
      const float theirs = with_gates && chunk + lane < end ? chosen.gate(token, chunk + lane) : 0.0f;
      for (int32_t j = chunk; j < min(end, chunk + 32); ++j) {
        const int other = __shfl_sync(whole_warp, others, j - chunk);
        const float gate = __shfl_sync(whole_warp, theirs, j - chunk);
        if (other != own) continue;
        alike.before += j < first + lane;
        ++alike.all;
        alike.gate += static_cast<double>(gate);
      }
    }
    return alike;
  }
};

// Each warp its own row.
__device__ __forceinline__ void clear_tally(const Tally &tally, int buckets) {
  for (int b = lane_of_thread(); b < buckets; b += 32) tally.next[warp_of_thread() * buckets + b] = 0;
  __syncwarp();
}

// Walks the tokens of this warp in order and counts. put(token, j, bucket, place, leads, alike): the place of each choice in its
// bucket is start + what was counted before it; choices without a bucket (−1) have none (−1).
template <typename BucketOf, typename Put>
__device__ __forceinline__ void walk(const Choices<BucketOf> &choices, const Tally &tally, int buckets,
                                     TokenRange range, bool with_gates, const Put &put) {
  const int lane = lane_of_thread(), row = warp_of_thread() * buckets;
  for (int64_t token = range.begin; token < range.end; ++token) {
    for (int32_t first = 0; first < choices.chosen.top_k; first += 32) {
      const int bucket = choices.bucket(token, first + lane);
      const Alike alike = choices.alike(token, first, bucket, with_gates);
      const bool leads = bucket >= 0 && alike.before == 0;
      const int before = bucket >= 0 ? tally.next[row + bucket] : 0;
      __syncwarp();
      if (leads) tally.next[row + bucket] = before + (choices.coalesces ? 1 : alike.all);
      __syncwarp();
      if (first + lane >= choices.chosen.top_k) continue;
      int place = -1;
      if (bucket >= 0) {
        place = tally.start[bucket] + (choices.coalesces ? tally.next[row + bucket] - 1 : before + alike.before);
      }
      put(token, first + lane, bucket, place, leads, alike);
    }
    __syncwarp();
  }
}

// Of one bucket, from counts of each warp of the block to those of the warps before it; returns their sum. Counts are
// fetched several at once, since a store in between would hold up the next load.
__device__ __forceinline__ int sum_warps(const Tally &tally, int buckets, int bucket) {
  constexpr int at_once = 8;
  const int warps = static_cast<int>(blockDim.x) / 32;
  int before = 0;
  for (int first = 0; first < warps; first += at_once) {
    int count[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) count[i] = first + i < warps ? tally.next[(first + i) * buckets + bucket] : 0;
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      if (first + i < warps) tally.next[(first + i) * buckets + bucket] = before;
      before += count[i];
    }
  }
  return before;
}

// As sum_warps over the blocks, by a warp for 8 buckets from `bucket` on: a sector of each of 4 blocks at a time. Lane
// 8·r + i sums neighbouring blocks for bucket i, and returns its sum over all blocks.
inline constexpr int buckets_together = 8;
__device__ __forceinline__ int sum_blocks(int *counts, int blocks, int stride, int buckets, int bucket) {
  constexpr int most = 8, runs = 32 / buckets_together;
  const int lane = lane_of_thread(), own = bucket + lane % buckets_together, run = lane / buckets_together;
  int before = 0;
  for (int first = 0; first < blocks; first += runs * most) {
    const int each = min(most, (blocks - first + runs - 1) / runs), begin = first + run * each;
    int *const from = counts + static_cast<int64_t>(begin) * stride + own;
    const int there = own < buckets ? min(each, blocks - begin) : 0;
    int count[most], sum = 0;
#pragma unroll
    for (int i = 0; i < most; ++i) {
      count[i] = i < there ? ptx::load(from + static_cast<int64_t>(i) * stride) : 0;
      sum += count[i];
    }
    int place = before;
#pragma unroll
    for (int r = 0; r < runs; ++r) {
      const int other = __shfl_sync(whole_warp, sum, r * buckets_together + lane % buckets_together);
      if (r < run) place += other;
      before += other;
    }
#pragma unroll
    for (int i = 0; i < most; ++i) {
      if (i < there) ptx::store(from + static_cast<int64_t>(i) * stride, place);
      place += count[i];
    }
  }
  return before;
}

// By all threads: from counts of buckets to where each begins; counts[buckets] becomes their sum.
__device__ __forceinline__ void sum_buckets(const Tally &tally, const SharedArray<int> &counts, int buckets) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int each = (buckets + threads - 1) / threads, begin = min(buckets, thread * each);
  const int end = min(buckets, begin + each);
  int sum = 0;
  for (int b = begin; b < end; ++b) sum += counts[b];
  const int inside = warp_exclusive_sum(sum);
  if (lane_of_thread() == 31) tally.partial[warp_of_thread()] = inside + sum;
  __syncthreads();
  int before = inside;
  for (int warp = 0; warp < warp_of_thread(); ++warp) before += tally.partial[warp];
  for (int b = begin; b < end; ++b) {
    const int count = counts[b];
    counts[b] = before;
    before += count;
  }
  if (thread == threads - 1) counts[buckets] = before;
  __syncthreads();
}

// The rows of the one block in their order, so that neighbours are stored together.
struct SortedRows {
  SharedArray<int32_t> token;
  SharedArray<float> gate;

  __device__ __forceinline__ SortedRows(const Team<false> &team, const RouteArguments &a, int64_t, int,
                                        SharedCutter &shared) {
    const int most = team.block_warps() * a.staged_tokens * a.route.top_k;
    token = shared.take<int32_t>(most);
    gate = shared.take<float>(most);
  }
  __device__ __forceinline__ void set(int place, int, int64_t own_token, float own_gate) const {
    ptx::store_shared(&token[place], static_cast<int32_t>(own_token));
    ptx::store_shared(&gate[place], own_gate);
  }
  // By all threads; either may be null.
  __device__ __forceinline__ void store(int count, int32_t *token_of, float *gate_of) const {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
      if (token_of != nullptr) ptx::store(token_of + i, ptx::load_shared(&token[i]));
      if (gate_of != nullptr) ptx::store(gate_of + i, ptx::load_shared(&gate[i]));
    }
  }
};

// From counts of each warp to those of the warps before it in the block (next). start: 0, or, where buckets follow one
// another, where each begins among the choices of the block.
template <bool whole_grid>
__device__ __forceinline__ void sum_block(const Team<whole_grid> &team, const RouteArguments &a, const Tally &tally,
                                          int buckets, bool contiguous) {
  int *const counts = at<int>(team.frame, a.counts);
  __syncthreads();
  for (int b = static_cast<int>(threadIdx.x); b < buckets; b += static_cast<int>(blockDim.x)) {
    const int sum = sum_warps(tally, buckets, b);
    tally.start[b] = contiguous ? sum : 0;
    if constexpr (whole_grid) ptx::store(counts + static_cast<int64_t>(team.block()) * tally.stride + b, sum);
  }
  __syncthreads();
  if (contiguous) sum_buckets(tally, tally.start, buckets);
}

// From the counts of each block to those of the blocks before it, in scratch. base: where each bucket begins among the
// choices of all blocks; start: what is to be added to base and a place of this block's own, which is the rows of the blocks
// before less what start was. Meanwhile(): by all threads when what each block has stored can be read; look_up(): when the
// sums can be.
template <typename Meanwhile, typename LookUp>
__device__ __forceinline__ void sum_grid(const Team<true> &team, const RouteArguments &a, const Tally &tally,
                                         int buckets, const Meanwhile &meanwhile, const LookUp &look_up) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  int *const counts = at<int>(team.frame, a.counts), *const totals = at<int>(team.frame, a.totals);
  const int *const own = counts + static_cast<int64_t>(team.block()) * tally.stride;
  team.meet();
  // One warp of each block before a second of any.
  for (int b = buckets_together * (warp_of_thread() * team.blocks() + team.block()); b < buckets;
       b += buckets_together * team.warps()) {
    const int total = sum_blocks(counts, team.blocks(), tally.stride, buckets, b);
    if (lane_of_thread() < min(buckets_together, buckets - b)) ptx::store(totals + b + lane_of_thread(), total);
  }
  meanwhile();
  team.meet();
  for (int b = thread; b < buckets; b += threads) {
    const int total = ptx::load(totals + b), before = ptx::load(own + b);
    tally.base[b] = total;
    tally.start[b] = before - tally.start[b];
  }
  look_up();
  __syncthreads();
  sum_buckets(tally, tally.base, buckets);
}

}  // namespace moe::cuda
