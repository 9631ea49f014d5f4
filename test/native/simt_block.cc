// Barriers, blocks and grids: who waits for whom, and what is found where nobody comes.
#include <ptx.h>

#include <cstdint>
#include <set>
#include <vector>

#include "kernel/reduce.h"
#include "simt_launch.h"

namespace moe::test {
namespace {

using cuda::SharedArray;
using cuda::SharedCutter;

TEST_CASE("simt: a block of 1024 threads meets at its barrier as often as it likes, under every sanitizer") {
  std::vector<int> sums(2);
  CHECK(launch(
            +[](int *sums) {
              SharedCutter cutter;
              const SharedArray<int> partial = cutter.take<int>(32);
              int sum = 0;
              for (int round = 0; round < 4; ++round)
                sum += cuda::block_reduce(static_cast<int>(threadIdx.x), cuda::Add(), partial);
              if (threadIdx.x == 1023) sums[blockIdx.x] = sum;
            },
            {2, 1024, 128}, sums.data())
            .empty());
  CHECK(sums == std::vector<int>{4 * 1023 * 512, 4 * 1023 * 512});
}

TEST_CASE("simt: a barrier does not wait for threads that have ended") {
  for (int i = 0; i < 16; ++i) {  // some of them begin with threads that wait
    CHECK(launch(
              +[] {
                if (threadIdx.x >= 20) return;
                __syncthreads();
              },
              {1, 64})
              .empty());
  }
}

TEST_CASE("simt: a barrier that votes orders memory and tells everybody of each round's yes alone") {
  std::vector<int> right(64);
  CHECK(launch(
            +[](int *right) {
              SharedCutter cutter;
              const SharedArray<int> rounds = cutter.take<int>(64);
              const int own = static_cast<int>(threadIdx.x);
              for (int round = 0; round < 8; ++round) {
                rounds[own] = round;
                const bool any = __syncthreads_or(round % 3 == 1 && own == 5 * round) != 0;
                right[own] += any == (round % 3 == 1) && rounds[63 - own] == round;
                __syncthreads();
              }
            },
            {1, 64, 256}, right.data())
            .empty());
  CHECK(right == std::vector<int>(64, 8));
}

TEST_CASE("simt: threads take turns in an order that changes from launch to launch") {
  std::set<int> firsts;
  for (int i = 0; i < 16; ++i) {
    int first = -1;
    launch(
        +[](int *first) {
          // An atomic: which thread is first is a race by intention.
          atomicCAS(first, -1, static_cast<int>(threadIdx.x));
        },
        {1, 64}, &first);
    firsts.insert(first);
  }
  CHECK(firsts.size() > 1);
}

TEST_CASE("simt: shared memory starts as NaN, and holds what was asked for") {
  float value = 0;
  CHECK(launch(
            +[](float *value) {
              SharedCutter cutter;
              *value = cutter.take<float>(1)[0];
            },
            {1, 1, 16}, &value)
            .empty());
  CHECK(std::isnan(value));
  const std::string more = launch(
      +[] {
        SharedCutter cutter;
        cutter.take<float>(5);
      },
      {1, 1, 16});
  CHECK_MESSAGE(contains(more, "more bytes than the launch asked for"), more);
}

TEST_CASE("simt: named barriers hand over from a warp that arrives to one that waits") {
  std::vector<int> received(32);
  CHECK(launch(
            +[](int *received) {
              SharedCutter cutter;
              const SharedArray<int> box = cutter.take<int>(32);
              const int lane = cuda::lane_of_thread();
              if (cuda::warp_of_thread() == 0) {
                box[lane] = 3 * lane;
                cuda::ptx::barrier_arrive(1, 64);
              } else {
                cuda::ptx::barrier_sync(1, 64);
                received[lane] = box[31 - lane];
              }
            },
            {1, 64, 128}, received.data())
            .empty());
  for (int lane = 0; lane < 32; ++lane) CHECK(received[static_cast<size_t>(lane)] == 3 * (31 - lane));
}

TEST_CASE("simt: threads that wait for ever end the launch, which says where they wait") {
  const std::string parted = launch(
      +[] {
        if (threadIdx.x < 32) {
          cuda::ptx::barrier_sync(1, 64);
        } else {
          cuda::ptx::barrier_sync(2, 64);
        }
      },
      {1, 64});
  CHECK_MESSAGE(contains(parted, "64 threads of block 0 wait for others that never come"), parted);
  CHECK_MESSAGE(contains(parted, "32 at barrier 1"), parted);
  CHECK_MESSAGE(contains(parted, "32 at barrier 2"), parted);
  const std::string crowded = launch(+[] { cuda::ptx::barrier_sync(1, 96); }, {1, 128});
  CHECK_MESSAGE(!crowded.empty(), crowded);
  uint32_t never = 0;
  const std::string polled = launch(
      +[](uint32_t *never) {
        while (cuda::ptx::load_acquire(never) == 0) {
        }
      },
      {1, 32}, &never);
  CHECK_MESSAGE(contains(polled, "polls for what never comes"), polled);
}

// Every block waits until all have come.
void gather(uint32_t *come, uint32_t *seen) {
  if (threadIdx.x == 0) {
    cuda::ptx::add_release(come, 1);
    while (cuda::ptx::load_acquire(come) < gridDim.x) {
    }
  }
  __syncthreads();
  seen[blockIdx.x * blockDim.x + threadIdx.x] = cuda::ptx::load_acquire(come);
}

TEST_CASE("simt: the blocks of a cooperative launch run at once, those of a plain launch need not") {
  uint32_t come = 0;
  std::vector<uint32_t> seen(4 * 64);
  CHECK(launch(gather, {4, 64, 0, true}, &come, seen.data()).empty());
  CHECK(seen == std::vector<uint32_t>(4 * 64, 4));
  come = 0;
  CHECK(!launch(gather, {4, 64}, &come, seen.data()).empty());
}

TEST_CASE("simt child: two blocks write one place" * doctest::skip()) {
  int place = 0;
  CHECK(launch(+[](int *place) { *place = 1; }, {2, 1}, &place).empty());
}
TEST_CASE("simt child: two launches write one place" * doctest::skip()) {
  int place = 0;
  for (int i = 0; i < 2; ++i) CHECK(launch(+[](int *place) { *place = 1; }, {1, 1}, &place).empty());
}

#if defined(__SANITIZE_THREAD__)
TEST_CASE("simt: the thread sanitizer sees launches in order, and blocks of one launch in none") {
  const Child blocks = run_alone("simt child: two blocks write one place");
  CHECK(!blocks.clean);
  CHECK_MESSAGE(contains(blocks.output, "WARNING: ThreadSanitizer: data race"), blocks.output);
  const Child launches = run_alone("simt child: two launches write one place");
  CHECK_MESSAGE(launches.clean, launches.output);
}
#endif

TEST_CASE("simt: a block larger than a GPU has is refused, a launch of nothing does nothing") {
  CHECK(contains(launch(+[] {}, {1, 1025}), "a block of 1025 threads"));
  CHECK(launch(+[] { simt::fail("a block ran"); }, {0, 32}).empty());
}

}  // namespace
}  // namespace moe::test
