// Lanes of a warp: what they exchange, and what is found where they do not meet.
#include <array>
#include <cstdint>

#include "simt_launch.h"

namespace moe::test {
namespace {

using Lanes = std::array<int, 32>;

TEST_CASE("simt: shuffles take from the lane that their definition names, within runs of `width`") {
  Lanes from{}, across{}, up{}, down{};
  CHECK(launch(
            +[](Lanes *from, Lanes *across, Lanes *up, Lanes *down) {
              const int lane = static_cast<int>(threadIdx.x);
              (*from)[threadIdx.x] = __shfl_sync(~0u, 10 * lane, 5, 8);
              (*across)[threadIdx.x] = __shfl_xor_sync(~0u, 10 * lane, 3);
              (*up)[threadIdx.x] = __shfl_up_sync(~0u, 10 * lane, 2, 16);
              (*down)[threadIdx.x] = __shfl_down_sync(~0u, 10 * lane, 2, 16);
            },
            {}, &from, &across, &up, &down)
            .empty());
  for (int lane = 0; lane < 32; ++lane) {
    const auto at = static_cast<size_t>(lane);
    CAPTURE(lane);
    CHECK(from[at] == 10 * (lane / 8 * 8 + 5));
    CHECK(across[at] == 10 * (lane ^ 3));
    CHECK(up[at] == 10 * (lane % 16 >= 2 ? lane - 2 : lane));
    CHECK(down[at] == 10 * (lane % 16 < 14 ? lane + 2 : lane));
  }
}

TEST_CASE("simt: votes, matches and reductions see the lanes of their mask and no others") {
  struct Result {
    uint32_t ballot, match, sum, most;
    int any, all;
  };
  std::array<Result, 32> results{};
  constexpr uint32_t odd = 0xaaaaaaaau;
  CHECK(launch(
            +[](Result *results) {
              const unsigned lane = threadIdx.x;
              if ((odd >> lane & 1u) == 0) return;
              results[lane] = {__ballot_sync(odd, lane > 15), __match_any_sync(odd, lane % 8),
                               __reduce_add_sync(odd, lane),  __reduce_max_sync(odd, lane),
                               __any_sync(odd, lane == 31),   __all_sync(odd, lane != 3)};
            },
            {}, results.data())
            .empty());
  for (unsigned lane = 1; lane < 32; lane += 2) {
    CAPTURE(lane);
    CHECK(results[lane].ballot == 0xaaaa0000u);
    CHECK(results[lane].match == 0x01010101u << lane % 8);
    CHECK(results[lane].sum == 256);
    CHECK(results[lane].most == 31);
    CHECK(results[lane].any == 1);
    CHECK(results[lane].all == 0);
  }
}

TEST_CASE("simt: __syncwarp orders what lanes wrote before it") {
  Lanes seen{};
  CHECK(launch(
            +[](Lanes *seen) {
              auto *const shared = reinterpret_cast<int *>(simt::current().block->shared);
              shared[threadIdx.x] = static_cast<int>(threadIdx.x);
              __syncwarp();
              (*seen)[threadIdx.x] = shared[31 - threadIdx.x];
            },
            {1, 32, 128}, &seen)
            .empty());
  for (size_t lane = 0; lane < 32; ++lane) CHECK(seen[lane] == static_cast<int>(31 - lane));
}

TEST_CASE("simt: lanes that do not meet as they say end the launch with what they did") {
  const auto told = [](void (*kernel)()) { return launch(kernel, {}); };
  const std::string outside = told(+[] { __shfl_sync(0x7fffffffu, 1, 0); });
  CHECK_MESSAGE(contains(outside, "outside the mask"), outside);
  const std::string masks = told(+[] { __syncwarp(threadIdx.x == 0 ? 0x3u : ~0u); });
  CHECK_MESSAGE(contains(masks, "different masks"), masks);
  const std::string instructions = told(+[] {
    if (threadIdx.x % 2 == 0) {
      __ballot_sync(~0u, 1);
    } else {
      __reduce_add_sync(~0u, 1u);
    }
  });
  CHECK_MESSAGE(contains(instructions, "different instructions"), instructions);
  const std::string source = told(+[] {
    if (threadIdx.x < 16) __shfl_sync(0xffffu, 1, 20);
  });
  CHECK_MESSAGE(contains(source, "from a lane outside the mask"), source);
  const std::string absent = told(+[] {
    if (threadIdx.x != 7) __syncwarp();
  });
  CHECK_MESSAGE(contains(absent, "31 of 32 lanes"), absent);
}

}  // namespace
}  // namespace moe::test
