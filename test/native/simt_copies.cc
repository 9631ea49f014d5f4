// Asynchronous copies: nothing is there before it was waited for.
#include <ptx.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernel/shared.h"
#include "simt_launch.h"

namespace moe::test {
namespace {

using cuda::SharedArray;
using cuda::SharedCutter;
namespace ptx = cuda::ptx;

struct alignas(16) Four {
  float x[4];
};
struct Stages {
  float asked, first, second;
};

TEST_CASE("simt: an asynchronous copy lands at the wait for its group, oldest group first") {
  const std::array<Four, 2> from{{{{1, 2, 3, 4}}, {{5, 6, 7, 8}}}};
  std::array<Stages, 2> seen{};
  CHECK(launch(
            +[](const Four *from, Stages *seen) {
              SharedCutter cutter;
              const SharedArray<Four> to = cutter.take<Four>(2);
              for (int i = 0; i < 2; ++i) {
                ptx::copy_async(&to[i], from + i);
                ptx::copy_async_commit();
              }
              for (int i = 0; i < 2; ++i) seen[i].asked = to[i].x[3];
              ptx::copy_async_wait<1>();
              for (int i = 0; i < 2; ++i) seen[i].first = to[i].x[3];
              ptx::copy_async_wait<0>();
              for (int i = 0; i < 2; ++i) seen[i].second = to[i].x[3];
            },
            {1, 1, 32}, from.data(), seen.data())
            .empty());
  CHECK((std::isnan(seen[0].asked) && std::isnan(seen[1].asked)));
  CHECK(seen[0].first == 4);
  CHECK(std::isnan(seen[1].first));
  CHECK((seen[0].second == 4 && seen[1].second == 8));
}

TEST_CASE("simt: a copy that is not valid lands as zeros and reads nothing") {
  Four seen{{1, 1, 1, 1}};
  CHECK(launch(
            +[](Four *seen) {
              SharedCutter cutter;
              const SharedArray<Four> to = cutter.take<Four>(1);
              ptx::copy_async(&to[0], nullptr, false);
              ptx::copy_async_commit();
              ptx::copy_async_wait<0>();
              *seen = to[0];
            },
            {1, 1, 16}, &seen)
            .empty());
  for (const float x : seen.x) CHECK(x == 0);
}

// Each round one thread asks for 256 floats, all wait for the phase, and each adds its own.
void sum_rounds(const float *from, float *sums, int rounds, uint32_t announced) {
  SharedCutter cutter;
  const SharedArray<float> stage = cutter.take<float>(256);
  const SharedArray<uint64_t> barrier = cutter.take<uint64_t>(1);
  if (threadIdx.x == 0) ptx::mbarrier_init(&barrier[0], 1);
  __syncthreads();
  float sum = 0;
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x == 0) {
      ptx::mbarrier_arrive_expect(&barrier[0], announced);
      ptx::bulk_copy(stage.data(), from + 256 * round, 1024, &barrier[0]);
    }
    ptx::mbarrier_wait(&barrier[0], static_cast<uint32_t>(round) % 2);
    sum += stage[static_cast<int>(threadIdx.x)];
    __syncthreads();
  }
  sums[threadIdx.x] = sum;
}

TEST_CASE("simt: a bulk copy ends the phase of its barrier once all announced bytes have landed") {
  alignas(16) std::array<float, 4 * 256> from{};
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i);
  std::vector<float> sums(256);
  CHECK(launch(sum_rounds, {1, 256, 1040}, from.data(), sums.data(), 4, 1024u).empty());
  for (size_t i = 0; i < sums.size(); ++i) CHECK(sums[i] == static_cast<float>(4 * i + 6 * 256));
  const std::string short_of = launch(sum_rounds, {1, 256, 1040}, from.data(), sums.data(), 1, 1040u);
  CHECK_MESSAGE(contains(short_of, "polls for what never comes"), short_of);
}

TEST_CASE("simt: copies that are misplaced, and arrivals that are too many, end the launch") {
  alignas(16) std::array<float, 16> from{};
  const auto told = [&](void (*kernel)(const float *)) { return launch(kernel, {1, 1, 128}, from.data()); };
  const std::string bytes = told(+[](const float *from) {
    SharedCutter cutter;
    const SharedArray<uint64_t> barrier = cutter.take<uint64_t>(1);
    ptx::mbarrier_init(&barrier[0], 1);
    ptx::bulk_copy(cutter.take<float>(16).data(), from, 20, &barrier[0]);
  });
  CHECK_MESSAGE(contains(bytes, "multiples of 16 bytes"), bytes);
  const std::string unawaited = told(+[](const float *from) {
    SharedCutter cutter;
    const SharedArray<uint64_t> barrier = cutter.take<uint64_t>(1);
    ptx::mbarrier_init(&barrier[0], 1);
    ptx::mbarrier_arrive_expect(&barrier[0], 32);
    ptx::bulk_copy(cutter.take<float>(16).data(), from, 32, &barrier[0]);
  });
  CHECK_MESSAGE(contains(unawaited, "before its bulk copies were waited for"), unawaited);
}

}  // namespace
}  // namespace moe::test
