// route with the product of its router, few tokens: logits = x·Wᵀ + bias, then all of route.
//
// Layout: x [T, width] row-major; W in panels of 16 experts (packed.h); parts [splits, T, 16 · panels]; the rest as
// route_small. A block takes a panel and a split of the columns: one block cannot stream a router at the speed of memory.
// Its warps take units of 64 columns in turn, and their sums are added up in their order. The block that comes last adds the
// parts of the splits up, again in order, and routes.
// Bound: bytes of W, of which each warp has 2 KB or more under way; then the latency of a last block, in place of those of two
// launches between kernels. Share reached: not measured on a GPU yet.
#include "kernel/last_block.h"
#include "linear/weight_fragment.h"
#include "route/route_tokens.h"
#include "route/router.h"

namespace moe::cuda {

// A lane's share of a step of W: two experts, g and g + 8, at columns 2q, 2q + 1, 2q + 8 and 2q + 9.
struct RouterStep {
  float low[4], high[4];
};

template <bool half>
__device__ __forceinline__ RouterStep router_step(const RouterArguments &a, const uint4 *unit, int step) {
  if constexpr (half) {
    const uint4 &v = unit[step];
    const auto first = [&](uint32_t pair) {
      return a.store == MOE_F16 ? ptx::f16_to_f32(static_cast<uint16_t>(pair)) : __uint_as_float(pair << 16);
    };
    const auto second = [&](uint32_t pair) {
      return a.store == MOE_F16 ? ptx::f16_to_f32(static_cast<uint16_t>(pair >> 16))
                                : __uint_as_float(pair & 0xffff0000u);
    };
    return {{first(v.x), second(v.x), first(v.z), second(v.z)}, {first(v.y), second(v.y), first(v.w), second(v.w)}};
  } else {
    const uint4 &v = unit[2 * step], &w = unit[2 * step + 1];
    const auto bits = [](uint32_t word) { return __uint_as_float(word); };
    return {{bits(v.x), bits(v.y), bits(w.x), bits(w.y)}, {bits(v.z), bits(v.w), bits(w.z), bits(w.w)}};
  }
}

// Two neighbours of x.
__device__ __forceinline__ float2 load_neighbours(int32_t dtype, const void *x, int64_t index) {
  if (dtype == MOE_F32) return ptx::load(reinterpret_cast<const float2 *>(static_cast<const float *>(x) + index));
  const uint32_t pair = ptx::load(reinterpret_cast<const uint32_t *>(static_cast<const uint16_t *>(x) + index));
  const auto half = [&](uint32_t bits) {
    return dtype == MOE_F16 ? widen(F16{static_cast<uint16_t>(bits)}) : widen(BF16{static_cast<uint16_t>(bits)});
  };
  return make_float2(half(pair), half(pair >> 16));
}

// sum[t]: of experts g and g + 8 over this lane's columns of this warp's units. half: W is of 16 bits.
template <int most, bool half>
__device__ __forceinline__ void multiply_router(const Frame *frame, const RouterArguments &a, int tokens,
                                                float (&sum)[most][2]) {
  constexpr int chunks = half ? unit_steps : 2 * unit_steps, at_once = most < 4 ? most : 4;
  const int units = static_cast<int>(a.width / unit_columns), lane = lane_of_thread();
  const int turn = a.splits * router_warps;
  const void *const x = at<void>(frame, a.x);
  const uint4 *const weight = a.weight + static_cast<int64_t>(blockIdx.x) * units * chunks * warp_lanes + lane;
  for (int unit = static_cast<int>(blockIdx.y) * router_warps + warp_of_thread(); unit < units; unit += turn) {
    uint4 own[chunks];
#pragma unroll
    for (int i = 0; i < chunks; ++i)
      own[i] = ptx::load_once(weight + (static_cast<int64_t>(unit) * chunks + i) * warp_lanes);
#pragma unroll
    for (int step = 0; step < unit_steps; ++step) {
      const RouterStep w = router_step<half>(a, own, step);
      const int64_t column = static_cast<int64_t>(unit) * unit_columns + step * step_columns + 2 * (lane % 4);
#pragma unroll
      for (int first = 0; first < most; first += at_once) {
        if (first >= tokens) break;
        float2 left[at_once], right[at_once];
#pragma unroll
        for (int t = 0; t < at_once; ++t) {
          const int64_t index = min(first + t, tokens - 1) * a.width + column;
          left[t] = load_neighbours(a.x.dtype, x, index);
          right[t] = load_neighbours(a.x.dtype, x, index + step_columns / 2);
        }
#pragma unroll
        for (int t = 0; t < at_once; ++t) {
          float (&to)[2] = sum[first + t];
          to[0] = fmaf(w.low[3], right[t].y,
                       fmaf(w.low[2], right[t].x, fmaf(w.low[1], left[t].y, fmaf(w.low[0], left[t].x, to[0]))));
          to[1] = fmaf(w.high[3], right[t].y,
                       fmaf(w.high[2], right[t].x, fmaf(w.high[1], left[t].y, fmaf(w.high[0], left[t].x, to[1]))));
        }
      }
    }
  }
}

template <int n, int most>
__global__ void __launch_bounds__(router_threads, 2)
    router_kernel(const Frame *frame, const __grid_constant__ RouterArguments a) {
  SharedCutter shared;
  const SharedArray<int> answer = shared.take<int>(1);
  const SharedArray<float> sums = shared.take<float>(router_warps * most * panel_rows);
  const int tokens = static_cast<int>(rows(frame, a.route.logits)), thread = static_cast<int>(threadIdx.x);
  const int lane = lane_of_thread();

  float sum[most][2]{};
  if (a.store == MOE_F32) {
    multiply_router<most, false>(frame, a, tokens, sum);
  } else {
    multiply_router<most, true>(frame, a, tokens, sum);
  }
#pragma unroll
  for (int t = 0; t < most; ++t) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float whole = warp_reduce(sum[t][i], Add(), 4);
      if (lane % 4 == 0) sums[(warp_of_thread() * most + t) * panel_rows + lane / 4 + 8 * i] = whole;
    }
  }
  __syncthreads();
  float *const parts = at<float>(frame, a.parts);
  const int padded = a.panels * panel_rows, experts = a.route.route.experts;
  const int64_t part = a.route.largest_tokens * padded;
  for (int i = thread; i < tokens * panel_rows; i += router_threads) {
    float total = 0;
#pragma unroll
    for (int warp = 0; warp < router_warps; ++warp) total += sums[warp * most * panel_rows + i];
    ptx::store(parts + blockIdx.y * part + i / panel_rows * padded + static_cast<int>(blockIdx.x) * panel_rows +
                   i % panel_rows,
               total);
  }
  if (!is_last_block(frame, answer)) return;

  const SummedLogits logits{shared.take<float>(most * experts), a.route.route.score, experts};
  for (int t = 0; t < tokens; ++t) {
    for (int e = thread; e < experts; e += router_threads) {
      float total = 0;
#pragma unroll 4
      for (int split = 0; split < a.splits; ++split) total += ptx::load(parts + split * part + t * padded + e);
      if (a.bias != nullptr) total += ptx::load(a.bias + e);
      ptx::store_shared(&logits.sums[t * experts + e], total);
    }
  }
  __syncthreads();
  route_tokens<n, false>(frame, a.route, logits, shared);
}

void launch_router(Launcher &launcher, const Work &work, const Grid &grid, int candidates,
                   const RouterArguments &arguments) {
  const bool one = arguments.route.largest_tokens == 1;
  const auto kernel = candidates == 4   ? (one ? router_kernel<4, 1> : router_kernel<4, most_router_tokens>)
                      : candidates == 8 ? (one ? router_kernel<8, 1> : router_kernel<8, most_router_tokens>)
                                        : (one ? router_kernel<16, 1> : router_kernel<16, most_router_tokens>);
  launcher.run(work, kernel, grid, arguments);
}

}  // namespace moe::cuda
