// Which keys a token sees, where they are, and which form takes the token.
#pragma once
#include <type_traits>

#include "attention/arguments.h"
#include "kernel/element.h"
#include "kernel/reduce.h"

namespace moe::cuda {

template <int dtype>
using ElementOf = std::conditional_t<dtype == MOE_F32, float, std::conditional_t<dtype == MOE_F16, F16, BF16>>;

// [begin, end) of the positions of a sequence; empty where end ≤ begin.
struct KeyRange {
  int32_t begin, end;
};
__device__ __forceinline__ bool sees(KeyRange range, int key) { return key >= range.begin && key < range.end; }

// Where the keys of one sequence are.
class PagedKeys {
 public:
  __device__ __forceinline__ PagedKeys(const Frame *frame, const AttentionArguments &a, int64_t sequence)
      : page_size_(a.page_size),
        page_shift_(a.page_shift),
        known_pages_(rows(frame, a.k_cache)),
        width_(static_cast<int64_t>(a.kv_heads) * a.size) {
    const int64_t sequences = rows(frame, a.lengths);
    if (sequence < 0 || sequence >= sequences) return;
    table_ = rows(frame, a.pages) / sequences;
    pages_ = at<int32_t>(frame, a.pages) + sequence * table_;
    const int64_t capacity = table_ * a.page_size, length = ptx::load(at<int32_t>(frame, a.lengths) + sequence);
    length_ = static_cast<int32_t>(length < capacity ? length : capacity);
  }

  __device__ __forceinline__ KeyRange visible(const AttentionArguments &a, int64_t position) const {
    int64_t begin = 0, end = length_;
    if (a.causal != 0 && position + 1 < end) end = position + 1;
    if (a.window > 0 && position - a.window + 1 > 0) begin = position - a.window + 1;
    return begin < end ? KeyRange{static_cast<int32_t>(begin), static_cast<int32_t>(end)} : KeyRange{0, 0};
  }

  // First element of a position's row of a cache; −1 where it is on no page. 0 ≤ position.
  __device__ __forceinline__ int64_t row(int64_t position) const {
    const int64_t page = page_shift_ < 0 ? position / page_size_ : position >> page_shift_;
    if (page >= table_) return -1;
    const int64_t known = ptx::load(pages_ + page);
    return known < 0 || known >= known_pages_ ? -1 : (known * page_size_ + (position - page * page_size_)) * width_;
  }

 private:
  int32_t page_size_, page_shift_;
  int64_t known_pages_, width_, table_ = 0;
  const int32_t *pages_ = nullptr;
  int32_t length_ = 0;
};

// The tokens of `sequence` among the tile's, a bit each; to be asked by whole warps.
__device__ __forceinline__ uint64_t tokens_of_tile(const Frame *frame, const AttentionArguments &a, int64_t tile,
                                                   int64_t sequence) {
  const int64_t first = tile * a.tile_tokens, tokens = rows(frame, a.q);
  uint64_t found = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int own = 32 * half + lane_of_thread();
    const bool same = own < a.tile_tokens && first + own < tokens &&
                      ptx::load(at<int32_t>(frame, a.sequence) + first + own) == sequence;
    found |= static_cast<uint64_t>(__ballot_sync(whole_warp, same)) << (32 * half);
  }
  return found;
}

// Whether a tile takes a sequence of which it has these tokens.
__device__ __forceinline__ bool taken_by_tile(const AttentionArguments &a, uint64_t found) {
  return __popcll(found) >= a.tile_least;
}

__device__ __forceinline__ bool taken_by_tiles(const Frame *frame, const AttentionArguments &a, int64_t token,
                                               int64_t sequence) {
  return a.tile_tokens > 0 && taken_by_tile(a, tokens_of_tile(frame, a, token / a.tile_tokens, sequence));
}

// A score as the softmax takes it.
__device__ __forceinline__ float scaled_score(const AttentionArguments &a, float product) {
  const float score = product * a.scale;
  return a.soft_cap > 0 ? a.soft_cap * tanhf(score / a.soft_cap) : score;
}

// The weight of a score under a largest one; nothing seen yet is −∞.
__device__ __forceinline__ float softmax_weight(float score, float largest) {
  return score == -INFINITY ? 0.0f : expf(score - largest);
}

}  // namespace moe::cuda
