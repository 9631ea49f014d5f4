// What the kernels of `route` are given, and who launches them.
#pragma once
#include "host/launcher.h"
#include "host/node.h"

namespace moe::cuda {

struct RouteArguments {
  Place logits, bias, group_of, given_ids, given_gates;
  Place ids, gates, row_of, token_of, gate_of, offsets;
  // Scratch, present where the node needs it.
  Place counts;                // i32 [blocks, buckets]: choices of each block, then of those before it
  Place totals;                // i32 [buckets]
  Place given_rows;            // u64 [blocks, most rows of a block]: bucket and token of the block; gate (exchange.h)
  Place starts;                // i32 [blocks, buckets + 1]: where buckets begin among the rows of each block
  Place keys;                  // u32 [E, largest T]: each expert's ranking of the tokens, where experts choose
  Place last;                  // u64 [E]: the last token that each expert takes
  Place kept_ids, kept_gates;  // [T, K]: the outputs or scratch, where they are not staged
  Place rows;                  // u32 [warps, words a row]: candidates of a token, where registers do not hold them
  int64_t largest_tokens;
  int32_t staged_tokens;  // of a warp, whose ids and gates stay in shared memory; 0: they are in global memory
  int32_t members;        // blocks that exchange rows
  moe_route route;

  __device__ __forceinline__ bool chosen() const { return given_ids.present(); }
  // Where ids come with gates nothing is scored.
  __host__ __device__ __forceinline__ bool scored() const { return logits.present() && !given_gates.present(); }
  __device__ __forceinline__ bool experts_choose() const { return route.choice == MOE_CHOICE_EXPERT; }
  __device__ __forceinline__ bool drops() const { return route.capacity > 0 && !experts_choose(); }
  __host__ __device__ __forceinline__ bool coalesces() const { return route.coalesce != 0 && group_of.present(); }
  // Rows are sorted by bucket, then token: a slot where choices of one slot are one row, else an expert.
  __host__ __device__ __forceinline__ int32_t buckets() const { return coalesces() ? route.slots : route.experts; }
};

// A block has as many threads as leave a thread the registers for its candidates, of which there are 4, 8 or 16 in registers,
// or any number in memory (0).
constexpr unsigned route_threads(int candidates) { return candidates >= 8 ? 512 : 768; }

void launch_route_small(Launcher &launcher, const Work &work, const Grid &grid, int candidates,
                        const RouteArguments &arguments);
void launch_route_large(Launcher &launcher, const Work &work, const Grid &grid, int candidates,
                        const RouteArguments &arguments);

}  // namespace moe::cuda
