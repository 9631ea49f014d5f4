// What every attention kernel takes.
//
// A query row is one head of one token. Heads that share a head of keys are a group; the kernels keep a group together, so
// that its keys and values are read once.
#pragma once
#include "kernel/frame.h"

namespace moe::cuda {

struct AttentionArguments {
  Place q, k, v, positions, sequence, lengths, pages, k_cache, v_cache, y;
  int32_t heads, kv_heads, group;  // group = heads / kv_heads
  int32_t size;                    // D
  int32_t page_size, page_shift;   // page_shift: −1 where page_size is no power of two
  int32_t causal, window;
  float scale, soft_cap;

  // Of the tile forms. A tile is `tile_tokens` consecutive tokens and `tile_heads` heads of a group; tokens of one sequence
  // are taken where at least `tile_least` of them are in the tile, the others are left to the decode form. 0: no tiles.
  int32_t tile_tokens, tile_heads, tile_least;

  // Of the decode form. A row's keys are cut into at most `splits` parts, a block each.
  int32_t splits;
  Place partial_sum;    // f32 [T, heads, splits, D], not divided by the weight
  Place partial_state;  // float2 [T, heads, splits]: largest score, weight
  Place arrived;        // u32 [T, counters]: parts that are done
  int32_t counters;     // a token's: blocks of the decode form that share a split
};

}  // namespace moe::cuda
