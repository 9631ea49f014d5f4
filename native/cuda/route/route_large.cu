// route, many tokens: one cooperative launch of at most a block a multiprocessor.
//
// Layout: as route_small; scratch: counts [blocks, buckets], totals [buckets]. Each warp of the grid has tokens in a row.
// Phases: choose and count → barrier → a warp sums 8 buckets over the blocks → barrier → each block sums over the buckets,
// and places its rows, a run of each bucket that begins and ends anywhere in a sector. Two barriers instead of each block
// reading all counts: what is read then grows with buckets · blocks once, not once a block.
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
