// Bugs that are easily written and hardly seen on a GPU: each kernel is right, and caught once its bug is planted.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../simt/planted-bugs/missing_barrier.h"
#include "../simt/planted-bugs/missing_wait.h"
#include "../simt/planted-bugs/shared_index.h"
#include "../simt/planted-bugs/unordered_blocks.h"
#include "simt_launch.h"

namespace moe::test {
namespace {

std::vector<float> counting(size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i * i);
  return values;
}

template <bool planted>
std::vector<float> reverse() {
  const std::vector<float> from = counting(2 * reversed);
  std::vector<float> to(2 * reversed);
  CHECK(launch(reverse_kernel<planted>, {2, reversed, 4 * reversed}, from.data(), to.data()).empty());
  return to;
}

TEST_CASE("simt child: reverses with its barrier" * doctest::skip()) {
  const std::vector<float> from = counting(2 * reversed), to = reverse<false>();
  for (size_t i = 0; i < to.size(); ++i) CHECK(to[i] == from[i / reversed * reversed + reversed - 1 - i % reversed]);
}
TEST_CASE("simt child: reverses without its barrier" * doctest::skip()) { reverse<true>(); }

TEST_CASE("simt: a missing barrier shows as NaN, since of two threads one comes first") {
#if defined(__SANITIZE_THREAD__)
  const Child planted = run_alone("simt child: reverses without its barrier");
  CHECK(!planted.clean);
  CHECK_MESSAGE(contains(planted.output, "WARNING: ThreadSanitizer: data race"), planted.output);
  CHECK_MESSAGE(contains(planted.output, "reverse_kernel"), planted.output);
#else
  int lost = 0;
  for (const float value : reverse<true>()) lost += std::isnan(value) ? 1 : 0;
  CHECK(lost == reversed);
#endif
  const Child right = run_alone("simt child: reverses with its barrier");
  CHECK_MESSAGE(right.clean, right.output);
}

template <bool planted>
int count() {
  const std::vector<float> from = counting(4 * counted);
  int sum = 0;
  CHECK(launch(count_kernel<planted>, {4, counted, 0}, from.data(), &sum).empty());
  return sum;
}

TEST_CASE("simt child: counts atomically" * doctest::skip()) { CHECK(count<false>() == 4 * counted - 11); }
TEST_CASE("simt child: counts without order" * doctest::skip()) { count<true>(); }

TEST_CASE("simt: blocks that write one place without order are a race") {
#if defined(__SANITIZE_THREAD__)
  const Child planted = run_alone("simt child: counts without order");
  CHECK(!planted.clean);
  CHECK_MESSAGE(contains(planted.output, "WARNING: ThreadSanitizer: data race"), planted.output);
  CHECK_MESSAGE(contains(planted.output, "count_kernel"), planted.output);
#endif
  const Child right = run_alone("simt child: counts atomically");
  CHECK_MESSAGE(right.clean, right.output);
}

TEST_CASE("simt: a missing wait for a copy ends the launch, and what was read is NaN") {
  constexpr int rows = 5;
  const std::vector<float> from = counting(4 * lanes * rows);
  std::vector<float4> to(lanes), aligned(lanes * rows);
  std::memcpy(aligned.data(), from.data(), from.size() * sizeof(float));
  CHECK(launch(sum_rows_kernel<false>, {1, lanes, 32 * lanes}, aligned.data(), to.data(), rows).empty());
  float expected = 0;
  for (size_t row = 0; row < rows; ++row) expected += from[4 * lanes * row];
  CHECK(to[0].x == expected);
  const std::string told = launch(sum_rows_kernel<true>, {1, lanes, 32 * lanes}, aligned.data(), to.data(), rows);
  CHECK_MESSAGE(contains(told, "before it waited for its asynchronous copies"), told);
  // The first thread to end without its wait ends the launch.
  CHECK(std::count_if(to.begin(), to.end(), [](const float4 &sum) { return std::isnan(sum.x); }) == 1);
}

TEST_CASE("simt: an index outside a shared array ends the launch with the index") {
  const std::vector<float> from = counting(neighbours);
  std::vector<float> to(neighbours);
  CHECK(launch(difference_kernel<false>, {1, neighbours, 4 * neighbours}, from.data(), to.data()).empty());
  CHECK(to[3] == from[4] - from[3]);
  const std::string told = launch(difference_kernel<true>, {1, neighbours, 4 * neighbours}, from.data(), to.data());
  CHECK_MESSAGE(contains(told, "index 64 of a shared array of 64"), told);
  CHECK_MESSAGE(contains(told, "thread 63"), told);
}

}  // namespace
}  // namespace moe::test
