// The rows of a block of a tile form: `tile_tokens` consecutive tokens by `tile_heads` heads of one group, row = token ·
// tile_heads + head. The block goes over the sequences that have at least `tile_least` tokens there, one after the other:
// mostly one. Each row has a position of its own, so that the tokens of a sequence may stand in any order.
#pragma once
#include "attention/keys.h"

namespace moe::cuda {

struct TileOfRows {
  int64_t index, first_token, first_head;
  int tokens, heads, kv_head;  // no tokens: nothing to do

  // Of a grid (tiles, kv_heads · chunks of a group's heads). The last tiles see the most keys and go first.
  __device__ __forceinline__ TileOfRows(const Frame *frame, const AttentionArguments &a)
      : index(gridDim.x - 1 - blockIdx.x), first_token(index * a.tile_tokens) {
    const int64_t left = rows(frame, a.q) - first_token;
    tokens = static_cast<int>(left < a.tile_tokens ? left : a.tile_tokens);
    const int chunks = static_cast<int>(gridDim.y) / a.kv_heads,
              first = static_cast<int>(blockIdx.y) % chunks * a.tile_heads;
    kv_head = static_cast<int>(blockIdx.y) / chunks;
    heads = min(a.tile_heads, a.group - first);
    first_head = static_cast<int64_t>(kv_head) * a.group + first;
  }
  // A bit for each of its tokens.
  __device__ __forceinline__ uint64_t all_tokens() const {
    return tokens >= 64 ? ~uint64_t{0} : (uint64_t{1} << tokens) - 1;
  }
  // First element of a row of q and y; −1 where there is none.
  __device__ __forceinline__ int64_t element_of(const AttentionArguments &a, int row) const {
    const int token = row / a.tile_heads, head = row % a.tile_heads;
    if (token >= tokens || head >= heads) return -1;
    return ((first_token + token) * a.heads + first_head + head) * a.size;
  }
};

// One sequence of a tile; to be made by whole warps.
struct TileSequence {
  int64_t sequence;
  uint64_t own;  // its tokens of the tile, a bit each
  bool taken;    // there are enough of them
  PagedKeys paged;
  const int32_t *positions;
  KeyRange all;  // covers what any of them sees

  __device__ __forceinline__ TileSequence(const Frame *frame, const AttentionArguments &a, const TileOfRows &tile,
                                          int first)
      : sequence(ptx::load(at<int32_t>(frame, a.sequence) + tile.first_token + first)),
        own(tokens_of_tile(frame, a, tile.index, sequence)),
        taken(taken_by_tile(a, own)),
        paged(frame, a, sequence),
        positions(at<int32_t>(frame, a.positions) + tile.first_token),
        all{INT32_MAX, 0} {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = 32 * half + lane_of_thread();
      if ((own >> token & 1) == 0) continue;
      const KeyRange range = paged.visible(a, ptx::load(positions + token));
      if (range.begin < range.end) all = {min(all.begin, range.begin), max(all.end, range.end)};
    }
    all.begin = -warp_reduce(-all.begin, Largest{});
    all.end = warp_reduce(all.end, Largest{});
    if (all.end == 0) all.begin = 0;
  }

  __device__ __forceinline__ bool has_row(const AttentionArguments &a, int row) const {
    const int token = row / a.tile_heads;
    return token < a.tile_tokens && (own >> token & 1) != 0;
  }
  __device__ __forceinline__ KeyRange seen_by(const AttentionArguments &a, int row) const {
    return has_row(a, row) ? paged.visible(a, ptx::load(positions + row / a.tile_heads)) : KeyRange{0, 0};
  }
};

}  // namespace moe::cuda
