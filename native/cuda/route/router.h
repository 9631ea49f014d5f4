// The product of a router and the route behind it, in one launch (router.cu).
#pragma once
#include "linear/packed.h"
#include "route/arguments.h"

namespace moe::cuda {

inline constexpr int router_warps = 8, router_threads = 32 * router_warps;
inline constexpr int most_router_tokens = 16;

struct RouterArguments {
  RouteArguments route;  // of its logits only the number of rows counts
  Place x;               // [T, width], width a multiple of 64
  int64_t width;
  const uint4 *weight;  // packed.h: f32, f16 or bf16
  int32_t store;
  int32_t panels, splits;  // grid: a block a panel of 16 experts and a split of the columns
  const float *bias;       // [16 · panels] or null
  Place parts;             // scratch, f32 [splits, largest T, 16 · panels]
};

// Of the linear that a route has absorbed: all but `route` and `parts`.
RouterArguments router_arguments(const Device &device, const Node &linear);
void launch_router(Launcher &launcher, const Work &work, const Grid &grid, int candidates,
                   const RouterArguments &arguments);

}  // namespace moe::cuda
