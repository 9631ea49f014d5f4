// A tile of query rows against the keys of one sequence on the tensor cores, by four warps.
//
// Rows are query heads of tokens: 16 a warp where `row_warps` is 4, or 16 in all where the four warps each take a quarter of
// the keys. Keys and values come in tiles of `keys` through shared memory, copied asynchronously: the values of a tile
// land while its scores are computed, the keys of the next one while its values are summed. Rows of shared memory are 16
// bytes longer than their data, so that the eight rows of a matrix load touch every bank once.
//
// Scores are f32 and in powers of two; the softmax is kept a row (largest score, weight), the weights are rounded to the 16-bit
// type for the second product. A key that a row does not see weighs 0 there. 0 times a value that is no number would be none
// either, so such values are kept out of the product where the rows of a tile see different keys.
#pragma once
#include "attention/keys.h"
#include "kernel/shared.h"

namespace moe::cuda {

inline constexpr int mma_threads = 128;

__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], BF16) {
  ptx::mma_bf16(d, a, b);
}
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], F16) {
  ptx::mma_f16(d, a, b);
}
__device__ __forceinline__ uint32_t pack(float low, float high, BF16) { return ptx::pack_bf16(low, high); }
__device__ __forceinline__ uint32_t pack(float low, float high, F16) { return ptx::pack_f16(low, high); }

// The sign bits of those of a pair that are NaN or infinite: adding one to an exponent of all ones carries into the sign.
__device__ __forceinline__ uint32_t no_numbers(uint32_t pair, BF16) {
  return ((pair & 0x7f807f80u) + 0x00800080u) & 0x80008000u;
}
__device__ __forceinline__ uint32_t no_numbers(uint32_t pair, F16) {
  return ((pair & 0x7c007c00u) + 0x04000400u) & 0x80008000u;
}

// `depth`: D in sixteens, rounded up.
template <typename Element, int depth, int row_warps, int keys>
class MmaTile {
 public:
  static constexpr int key_warps = 4 / row_warps, rows = 16 * row_warps, stride = 16 * depth + 8;
  static constexpr int own_keys = keys / key_warps;
  static_assert(own_keys % 16 == 0);
  static constexpr size_t shared_bytes = sizeof(Element) * (rows + 2 * keys) * stride + 2 * keys * sizeof(int64_t);

  __device__ __forceinline__ explicit MmaTile(const AttentionArguments &a, SharedCutter &cutter)
      : a_(a),
        query_(cutter.take<Element>(rows * stride)),
        key_(cutter.take<Element>(keys * stride)),
        value_(cutter.take<Element>(keys * stride)),
        place_(cutter.take<int64_t>(2 * keys)) {}

  // Asks for row r of the queries, `from` null: zeros. All threads; they land with the first keys.
  template <typename RowAddress>
  __device__ __forceinline__ void load_queries(const RowAddress &row_address) {
    for (int i = static_cast<int>(threadIdx.x); i < rows * 2 * depth; i += mma_threads) {
      const int row = i / (2 * depth), d = i % (2 * depth) * 8;
      const Element *const from = row_address(row);
      const bool valid = from != nullptr && d < a_.size;
      ptx::copy_async(&query_[row * stride + d], valid ? from + d : nullptr, valid);
    }
  }

  // Rows that this thread holds: `low_row` and `low_row` + 8, with what they see. `all` covers every row's range and
  // is the same for the whole block.
  __device__ __forceinline__ void run(const PagedKeys &paged, const Element *k_cache, const Element *v_cache,
                                      KeyRange all, KeyRange low, KeyRange high) {
#pragma unroll
    for (int n = 0; n < 2 * depth; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) sum_[n][i] = 0;
    largest_[0] = largest_[1] = -INFINITY;
    weight_[0] = weight_[1] = 0;
    int first = all.begin / keys * keys, turn = 0;
    find_places(paged, all, first, 0);
    __syncthreads();
    load_rows(key_, k_cache, 0);
    ptx::copy_async_commit();
    for (; first < all.end; first += keys, turn ^= 1) {
      load_rows(value_, v_cache, turn);
      ptx::copy_async_commit();
      const bool more = first + keys < all.end;
      if (more) find_places(paged, all, first + keys, turn ^ 1);
      ptx::copy_async_wait<1>();
      __syncthreads();
      multiply_keys();
      __syncthreads();
      if (more) load_rows(key_, k_cache, turn ^ 1);
      ptx::copy_async_commit();
      soften(first + own_keys * key_warp(), low, high);
      ptx::copy_async_wait<1>();
      if constexpr (row_warps > 1) {
        if (__syncthreads_or(hides_some(all, first, low) || hides_some(all, first, high)))
          set_apart_no_numbers(first, low, high);
      } else {
        __syncthreads();  // all rows see the same keys
      }
      multiply_values();
      __syncthreads();
    }
    ptx::copy_async_wait<0>();
    __syncthreads();  // also where there was no key: then the queries may only now have landed
#pragma unroll
    for (int half = 0; half < 2; ++half) weight_[half] = warp_reduce(weight_[half], Add{}, 4);
  }

  // Of this thread: element i < 2 is of row `low_row`, 2 and 3 of the one 8 below; columns 8·n + column, + 1.
  __device__ __forceinline__ float sum(int n, int i) const { return sum_[n][i]; }
  __device__ __forceinline__ float natural_largest(int half) const { return largest_[half] * 0.69314718055994531f; }
  __device__ __forceinline__ float weight(int half) const { return weight_[half]; }
  __device__ __forceinline__ static int low_row() {
    return (row_warps > 1 ? 16 * warp_of_thread() : 0) + lane_of_thread() / 4;
  }
  __device__ __forceinline__ static int column() { return 2 * (lane_of_thread() % 4); }
  __device__ __forceinline__ static int key_warp() { return row_warps > 1 ? 0 : warp_of_thread(); }

  // The queries' place: a warp may overwrite rows that it is done with.
  __device__ __forceinline__ const SharedArray<Element> &staged() const { return query_; }
  // All of it, for whatever comes after `run`.
  __device__ __forceinline__ SharedArray<float> memory() const {
    return {reinterpret_cast<float *>(query_.data()), static_cast<int>(shared_bytes / sizeof(float))};
  }

 private:
  __device__ __forceinline__ void find_places(const PagedKeys &paged, KeyRange all, int first, int turn) const {
    const int own = static_cast<int>(threadIdx.x), key = first + own;
    if (own < keys) place_[turn * keys + own] = key >= all.begin && key < all.end ? paged.row(key) : -1;
  }
  __device__ __forceinline__ void load_rows(const SharedArray<Element> &to, const Element *cache, int turn) const {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < keys * 2 * depth; i += mma_threads) {
      const int key = i / (2 * depth), d = i % (2 * depth) * 8;
      const int64_t place = place_[turn * keys + key];
      const bool valid = place >= 0 && d < a_.size;
      ptx::copy_async(&to[key * stride + d], valid ? cache + place + d : nullptr, valid);
    }
  }
  __device__ __forceinline__ void multiply_keys() {
    const int lane = lane_of_thread(), row0 = row_warps > 1 ? 16 * warp_of_thread() : 0;
    const int query_row = row0 + (lane & 8) + lane % 8, query_column = lane / 16 * 8;
    const int key_row = own_keys * key_warp() + lane / 16 * 8 + lane % 8, key_column = (lane & 8);
#pragma unroll
    for (int n = 0; n < own_keys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) score_[n][i] = 0;
#pragma unroll
    for (int d = 0; d < depth; ++d) {
      uint32_t query[4];
      ptx::ldmatrix_x4(query, &query_[query_row * stride + 16 * d + query_column]);
#pragma unroll
      for (int n = 0; n < own_keys / 8; n += 2) {
        uint32_t both[4];
        ptx::ldmatrix_x4(both, &key_[(key_row + 8 * n) * stride + 16 * d + key_column]);
        mma(score_[n], query, {both[0], both[1]}, Element{});
        mma(score_[n + 1], query, {both[2], both[3]}, Element{});
      }
    }
  }
  // Scores become weights under the largest score so far. `first`: position of this warp's first key.
  __device__ __forceinline__ void soften(int first, KeyRange low, KeyRange high) {
    constexpr float log2_e = 1.44269504088896341f;
    const bool whole = first >= max(low.begin, high.begin) && first + own_keys <= min(low.end, high.end);
    float highest[2] = {largest_[0], largest_[1]};
#pragma unroll
    for (int n = 0; n < own_keys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const KeyRange &range = i < 2 ? low : high;
        const int key = first + 8 * n + column() + i % 2;
        float &score = score_[n][i];
        score = a_.soft_cap > 0 ? scaled_score(a_, score) * log2_e : score * (a_.scale * log2_e);
        if (!whole && !sees(range, key)) score = -INFINITY;
        highest[i / 2] = fmaxf(highest[i / 2], score);
      }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      highest[half] = warp_reduce(highest[half], Largest{}, 4);
      const float kept = largest_[half] == -INFINITY ? 0.0f : exp2f(largest_[half] - highest[half]);
      largest_[half] = highest[half];
      weight_[half] *= kept;
#pragma unroll
      for (int n = 0; n < 2 * depth; ++n) {
        sum_[n][2 * half] *= kept;
        sum_[n][2 * half + 1] *= kept;
      }
    }
#pragma unroll
    for (int n = 0; n < own_keys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float under = largest_[i / 2] == -INFINITY ? 0.0f : largest_[i / 2];
        score_[n][i] = exp2f(score_[n][i] - under);
        weight_[i / 2] += score_[n][i];
      }
  }
  // Whether the tile from `first` on holds keys that a row with this range does not see. A row that sees none has no result.
  __device__ __forceinline__ static bool hides_some(KeyRange all, int first, KeyRange range) {
    return range.begin < range.end && (max(first, all.begin) < range.begin || min(first + keys, all.end) > range.end);
  }
  // Values that are no numbers are added, unweighted, to the sums of the rows that see them: those are no numbers then,
  // whatever the weight. The product finds zeros in their place.
  __device__ __forceinline__ void set_apart_no_numbers(int first, KeyRange low, KeyRange high) {
    const auto pairs_of = [&](int i) {
      return reinterpret_cast<uint4 *>(&value_[i / (2 * depth) * stride + i % (2 * depth) * 8]);
    };
    bool found = false;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < keys * 2 * depth; i += mma_threads) {
      const uint4 own = ptx::load_shared(pairs_of(i));
      found |= (no_numbers(own.x, Element{}) | no_numbers(own.y, Element{}) | no_numbers(own.z, Element{}) |
                no_numbers(own.w, Element{})) != 0;
    }
    if (__syncthreads_or(found) == 0) return;
#pragma unroll 1
    for (int key = 0; key < keys; ++key) {
      const bool seen[2] = {sees(low, first + key), sees(high, first + key)};
#pragma unroll
      for (int n = 0; n < 2 * depth; ++n) {
        const auto pair =
            ptx::load_shared(reinterpret_cast<const uint32_t *>(&value_[key * stride + 8 * n + column()]));
        const uint32_t none = no_numbers(pair, Element{});
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int shift = i % 2 * 16;
          if (seen[i / 2] && (none >> shift & 0x8000u) != 0)
            sum_[n][i] += widen(Element{static_cast<uint16_t>(pair >> shift)});
        }
      }
    }
    __syncthreads();
    const auto numbers_of = [](uint32_t pair) { return pair & ~((no_numbers(pair, Element{}) >> 15) * 0xffffu); };
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < keys * 2 * depth; i += mma_threads) {
      const uint4 own = ptx::load_shared(pairs_of(i));
      ptx::store_shared(pairs_of(i),
                        make_uint4(numbers_of(own.x), numbers_of(own.y), numbers_of(own.z), numbers_of(own.w)));
    }
    __syncthreads();
  }
  __device__ __forceinline__ void multiply_values() {
    const int lane = lane_of_thread();
    const int value_row = own_keys * key_warp() + (lane & 8) + lane % 8, value_column = lane / 16 * 8;
#pragma unroll
    for (int s = 0; s < own_keys / 16; ++s) {
      const float (&p)[4] = score_[2 * s], (&q)[4] = score_[2 * s + 1];
      const uint32_t weights[4] = {pack(p[0], p[1], Element{}), pack(p[2], p[3], Element{}),
                                   pack(q[0], q[1], Element{}), pack(q[2], q[3], Element{})};
#pragma unroll
      for (int n = 0; n < 2 * depth; n += 2) {
        uint32_t both[4];
        ptx::ldmatrix_x4_transposed(both, &value_[(value_row + 16 * s) * stride + 8 * n + value_column]);
        mma(sum_[n], weights, {both[0], both[1]}, Element{});
        mma(sum_[n + 1], weights, {both[2], both[3]}, Element{});
      }
    }
  }

  const AttentionArguments &a_;
  SharedArray<Element> query_, key_, value_;
  SharedArray<int64_t> place_;
  float score_[own_keys / 8][4], sum_[2 * depth][4];
  float largest_[2], weight_[2];
};

}  // namespace moe::cuda
