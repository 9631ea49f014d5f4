// route, many tokens: one cooperative launch of at most a block a multiprocessor.
//
// Layout: as route_small; scratch: counts [blocks, buckets], totals [buckets], given rows [blocks, most rows of a block], starts
// [blocks, buckets + 1]. Each warp of the grid has tokens in a row.
// Phases: choose, count and sort the block's own rows → barrier → a warp sums 8 buckets over the blocks; meanwhile up to 16
// neighbouring blocks exchange rows (exchange.h) → barrier → each block sums over the buckets and stores the rows of its
// share. Two barriers instead of each block reading all counts: what is read then grows with buckets · blocks once, not
// once a block.
// Why an exchange: of 8192 tokens, 256 experts, top 8 and 132 blocks a block has runs of 2 rows. Stored as they are, sectors of
// token_of and gate_of are touched four times, and all of the kernel's are 1.16 times the fewest; exchanged in sets of 16
// runs have 31 rows, and it is 1.03, for 12 more bytes a choice. Fewer blocks with more tokens would give long runs too, but
// leave multiprocessors without logits to read; rows placed by fewer blocks than choose would wait for them behind the
// barrier, and so would a third step that splits stored pairs of token and gate.
// Bound: bytes of the logits; the selection, about 60 instructions a choice and warp, takes as long. Share reached: not
// measured on a GPU yet.
#include "route/route_tokens.h"

namespace moe::cuda {

template <int n>
__global__ void __launch_bounds__(route_threads(n), 1) route_large_kernel(const Frame *frame, RouteArguments a) {
  route_tokens<n, true>(frame, a);
}

void launch_route_large(Launcher &launcher, const Work &work, const Grid &grid, int candidates,
                        const RouteArguments &arguments) {
  const auto kernel = candidates == 4    ? route_large_kernel<4>
                      : candidates == 8  ? route_large_kernel<8>
                      : candidates == 16 ? route_large_kernel<16>
                                         : route_large_kernel<0>;
  launcher.run(work, kernel, grid, arguments);
}

}  // namespace moe::cuda
