// The keys of one token, cut into parts for several blocks, and their results put together again: by the block that is last to
// arrive, in order of the parts whoever that is.
#pragma once
#include "attention/keys.h"
#include "kernel/shared.h"

namespace moe::cuda {

// Of one query row over some keys.
struct RowResult {
  float largest, weight;  // of the softmax: largest score, sum of exp(score − largest)
  float sum;              // of one column: Σ exp(score − largest) · value
};

// Of the same row over several sets of keys, in their order.
template <typename ResultOf>
__device__ __forceinline__ RowResult merge_rows(int sets, const ResultOf &result_of) {
  RowResult row{-INFINITY, 0, 0};
  for (int set = 0; set < sets; ++set) row.largest = fmaxf(row.largest, result_of(set).largest);
  for (int set = 0; set < sets; ++set) {
    const RowResult own = result_of(set);
    const float share = softmax_weight(own.largest, row.largest);
    row.weight = __fmaf_rn(share, own.weight, row.weight);
    row.sum = __fmaf_rn(share, own.sum, row.sum);
  }
  return row;
}

// The heads of a block of a decode form: blockIdx.y counts chunks of up to `most` heads of a group.
struct HeadsOfBlock {
  int kv_head, first, count;  // `first` of all heads

  __device__ __forceinline__ HeadsOfBlock(const AttentionArguments &a, int most) {
    const int chunks = (a.group + most - 1) / most, chunk = static_cast<int>(blockIdx.y) % chunks;
    kv_head = static_cast<int>(blockIdx.y) / chunks;
    first = kv_head * a.group + chunk * most;
    count = min(most, a.group - chunk * most);
  }
};

class KeyPart {
 public:
  // Fewer keys than this are not worth a block of their own.
  static constexpr int least_keys = 128;

  // Part `index` of what a token sees; past the last one where `exists` is false. No keys at all: one part without any.
  __device__ __forceinline__ KeyPart(const AttentionArguments &a, KeyRange all, int index) : index_(index) {
    const int seen = all.end - all.begin, each = max((seen + a.splits - 1) / a.splits, least_keys);
    count_ = max(1, (seen + each - 1) / each);
    const int begin = all.begin + index * each;
    own_ = {begin, min(all.end, begin + each)};
  }
  __device__ __forceinline__ bool exists() const { return index_ < count_; }
  __device__ __forceinline__ KeyRange own() const { return own_; }

  // result(head, column) is this part's, `heads` of them from row `first_row` of [T · heads] on. All threads of a block of
  // `threads`; `counter`: one that only the parts of these rows count in.
  template <int threads, typename Result>
  __device__ __forceinline__ void finish(const Frame *frame, const AttentionArguments &a, int64_t first_row, int heads,
                                         int64_t counter, const SharedArray<uint32_t> &is_last,
                                         const Result &result) const {
    void *const y = at<void>(frame, a.y);
    float *const sums = at<float>(frame, a.partial_sum);
    float2 *const states = at<float2>(frame, a.partial_state);
    const auto store_y = [&](int i, const RowResult &row) {
      const bool sees = own_.begin < own_.end;  // of several parts, each has keys
      store_float(a.y.dtype, y, first_row * a.size + i, sees ? row.sum / row.weight : 0.0f);
    };
    for (int i = static_cast<int>(threadIdx.x); i < heads * a.size; i += threads) {
      const RowResult row = result(i / a.size, i % a.size);
      if (count_ == 1) {
        store_y(i, row);
        continue;
      }
      const int64_t place = (first_row + i / a.size) * a.splits + index_;
      ptx::store(sums + place * a.size + i % a.size, row.sum);
      if (i % a.size == 0) ptx::store(states + place, make_float2(row.largest, row.weight));
    }
    if (count_ == 1) return;
    __syncthreads();
    if (threadIdx.x == 0)
      is_last[0] = ptx::add_release(at<uint32_t>(frame, a.arrived) + counter, 1) + 1 == static_cast<uint32_t>(count_);
    __syncthreads();
    if (is_last[0] == 0) return;
    for (int i = static_cast<int>(threadIdx.x); i < heads * a.size; i += threads) {
      const int64_t place = (first_row + i / a.size) * a.splits;
      store_y(i, merge_rows(count_, [&](int part) {
                const float2 state = ptx::load(states + place + part);
                return RowResult{state.x, state.y, ptx::load(sums + (place + part) * a.size + i % a.size)};
              }));
    }
  }

 private:
  int index_, count_;
  KeyRange own_;
};

}  // namespace moe::cuda
