// route, few tokens: one block does all.
//
// Layout: logits [T, E]; ids, gates, row_of [T, K]; token_of, gate_of [R = T·K]; offsets [S + 1]; all dense, row-major. A
// warp chooses for one or two tokens; the counts of each warp, [warps, buckets], stay in shared memory, where the rows are
// sorted too, so that they are stored in whole sectors.
// Bound: the latency of the launch and of a handful of dependent steps: a barrier of a block costs a fraction of one of the
// grid, so up to 64 tokens one block is faster than all. Share reached: not measured on a GPU yet.
#include "route/route_tokens.h"

namespace moe::cuda {

template <int n>
__global__ void __launch_bounds__(route_threads(n), 1) route_small_kernel(const Frame *frame, RouteArguments a) {
  route_tokens<n, false>(frame, a);
}

void launch_route_small(Launcher &launcher, const Work &work, const Grid &grid, int candidates,
                        const RouteArguments &arguments) {
  const auto kernel = candidates == 4    ? route_small_kernel<4>
                      : candidates == 8  ? route_small_kernel<8>
                      : candidates == 16 ? route_small_kernel<16>
                                         : route_small_kernel<0>;
  launcher.run(work, kernel, grid, arguments);
}

}  // namespace moe::cuda
