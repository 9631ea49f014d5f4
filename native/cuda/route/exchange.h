// How the rows of a whole grid come to their places in long runs.
//
// A block has few rows of each bucket: two, of 8192 tokens, 256 experts and 132 blocks. By itself it would store them into
// a sector each of token_of and gate_of, with six places left to others. So the blocks of a set, neighbours, exchange rows:
// each sorts its own and gives them to scratch in that order; then it takes its share of the buckets from all members of
// the set, where they follow one another, and stores runs that are as many times longer. What it takes comes in long runs
// too, since the buckets of a share are neighbours.
// This asks for no barrier of its own: rows are given before the sums over the blocks, and taken while those are made.
#pragma once
#include "route/place.h"

namespace moe::cuda {

inline constexpr int64_t most_members = 16;  // of a set

// Words of shared memory for two numbers a member and bucket.
__host__ __device__ constexpr int exchange_words(int64_t buckets) {
  return static_cast<int>(2 * (buckets + 2 * most_members));
}

class Exchange {
 public:
  __device__ __forceinline__ Exchange(const Team<true> &team, const RouteArguments &a, int64_t tokens, int buckets,
                                      SharedCutter &shared)
      : team_(team),
        a_(a),
        block_(team.block()),
        buckets_(buckets),
        block_tokens_(static_cast<int32_t>(team.tokens_of_block(tokens))) {
    first_ = block_ / a.members * a.members;
    members_ = min(a.members, team.blocks() - first_);
    width_ = (buckets + members_ - 1) / members_;
    begin_ = min(buckets, (block_ - first_) * width_);
    block_rows_ = team.block_warps() * a.staged_tokens * a.route.top_k;
    tables_ = shared.take<int>(exchange_words(buckets));
    most_ = a.members * block_rows_;
    rows_ = shared.take<int32_t>(3 * most_);
  }

  // A row of this block at its place among them. Bucket and token of the block are below 2^16 both: shared memory has a
  // count for each bucket and words for each choice.
  __device__ __forceinline__ void set(int place, int bucket, int64_t token, float gate) const {
    const auto of_block = static_cast<int32_t>(token - block_ * block_tokens_);
    ptx::store_shared(&rows_[place], bucket << 16 | of_block);
    ptx::store_shared(&rows_[most_ + place], __float_as_int(gate));
  }

  // By all threads. start[buckets + 1]: where each bucket begins among the rows of this block.
  __device__ __forceinline__ void give(const SharedArray<int> &start) const {
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    __syncthreads();
    for (int i = thread; i < start[buckets_]; i += threads)
      ptx::store(given_of(block_) + i, int2{ptx::load_shared(&rows_[i]), ptx::load_shared(&rows_[most_ + i])});
    for (int b = thread; b <= buckets_; b += threads) ptx::store(starts_of(block_) + b, start[b]);
  }

  // By all threads, when all blocks have given: this block's share of the set's rows, bucket by bucket.
  __device__ __forceinline__ void take() const {
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    for (int i = thread; i < members_ * (width_ + 1); i += threads)
      tables_[i] = ptx::load(starts_of(first_ + i / (width_ + 1)) + min(begin_ + i % (width_ + 1), buckets_));
    __syncthreads();
    for (int b = thread; b < width_; b += threads) {
      int place = 0;
      for (int m = 0; m < members_; ++m) place += from(m, b) - from(m, 0);
      for (int m = 0; m < members_; ++m) {
        shift(m, b) = place - from(m, b);
        place += from(m, b + 1) - from(m, b);
      }
    }
    __syncthreads();
    const int warps = threads / 32, together = max(1, warps / members_);  // warps of a member
    for (int i = warp_of_thread(); i < members_ * together; i += warps) {
      const int m = i % members_;
      const int32_t first_token = (first_ + m) * block_tokens_;
      for (int r = from(m, 0) + i / members_ * 32 + lane_of_thread(); r < from(m, width_); r += 32 * together) {
        const int2 row = ptx::load(given_of(first_ + m) + r);
        const int bucket = static_cast<int>(static_cast<uint32_t>(row.x) >> 16) - begin_;
        const int place = r + shift(m, bucket);
        ptx::store_shared(&rows_[place], first_token + (row.x & 0xffff));
        ptx::store_shared(&rows_[most_ + place], row.y);
        ptx::store_shared(&rows_[2 * most_ + place], bucket);
      }
    }
  }

  // By all threads, when the sums over the blocks are made; stride: Tally's. A barrier of the block is between this and `store`.
  __device__ __forceinline__ void look_up(int stride) const {
    const int *const before = at<int>(team_.frame, a_.counts) + static_cast<int64_t>(first_) * stride + begin_;
    for (int b = static_cast<int>(threadIdx.x); b < min(width_, buckets_ - begin_); b += static_cast<int>(blockDim.x))
      shift(0, b) = ptx::load(before + b) - shift(0, b) - from(0, b);
  }
  // By all threads. base: where each bucket begins among all rows; either output may be null.
  __device__ __forceinline__ void store(const SharedArray<int> &base, int32_t *token_of, float *gate_of) const {
    int count = 0;
    for (int m = 0; m < members_; ++m) count += from(m, width_) - from(m, 0);
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
      const int bucket = ptx::load_shared(&rows_[2 * most_ + i]), to = i + base[begin_ + bucket] + shift(0, bucket);
      if (token_of != nullptr) ptx::store(token_of + to, ptx::load_shared(&rows_[i]));
      if (gate_of != nullptr) ptx::store(gate_of + to, __int_as_float(ptx::load_shared(&rows_[most_ + i])));
    }
  }

 private:
  __device__ __forceinline__ int2 *given_of(int block) const {
    return at<int2>(team_.frame, a_.given_rows) + static_cast<int64_t>(block) * block_rows_;
  }
  __device__ __forceinline__ int *starts_of(int block) const {
    return at<int>(team_.frame, a_.starts) + static_cast<int64_t>(block) * (buckets_ + 1);
  }
  // Of bucket begin_ + b of a member: where it begins among the member's rows, and how much further on it lies here.
  __device__ __forceinline__ int from(int member, int b) const { return tables_[member * (width_ + 1) + b]; }
  __device__ __forceinline__ int &shift(int member, int b) const {
    return tables_[(members_ + member) * (width_ + 1) + b];
  }

  const Team<true> &team_;
  const RouteArguments &a_;
  int block_, buckets_;
  int32_t block_tokens_;       // of each block but the last that have any
  int first_, members_;        // blocks of the set
  int begin_, width_;          // buckets that this block takes; where they end, those of all end too
  int block_rows_;             // at the most
  int most_;                   // rows of all members
  SharedArray<int> tables_;    // from [members, width + 1], and shift likewise
  SharedArray<int32_t> rows_;  // [3][most]: token, gate as bits, bucket of the share; given, then taken
};

}  // namespace moe::cuda
