// The runtime of the simt device: streams, events, graphs, memory.
#include <array>
#include <cmath>
#include <vector>

#include "simt_launch.h"

namespace moe::test {
namespace {

void add(int *to, int value) { *to += value; }

TEST_CASE("simt: nothing on a stream runs before somebody waits for it, and then in order") {
  int value = 1;
  Stream stream;
  stream.give(add, {1, 1}, &value, 2);
  int read = 0;
  cudaMemcpyAsync(&read, &value, sizeof value, cudaMemcpyDeviceToHost, stream.get());
  stream.give(add, {1, 1}, &value, 4);
  CHECK(value == 1);
  CHECK(stream.end().empty());
  CHECK(read == 3);
  CHECK(value == 7);
}

TEST_CASE("simt: waiting for an event runs the stream up to it and no further") {
  int value = 0;
  Stream stream;
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, 0);
  stream.give(add, {1, 1}, &value, 1);
  cudaEventRecord(event, stream.get());
  stream.give(add, {1, 1}, &value, 1);
  CHECK(cudaEventSynchronize(event) == cudaSuccess);
  CHECK(value == 1);
  cudaEventDestroy(event);
  CHECK(stream.end().empty());
  CHECK(value == 2);
}

TEST_CASE("simt: what is captured runs when its graph is launched, as often as it is") {
  int value = 0;
  Stream stream;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal);
  stream.give(add, {1, 1}, &value, 5);
  cudaStreamEndCapture(stream.get(), &graph);
  CHECK(stream.end().empty());
  CHECK(value == 0);
  cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  for (int i = 0; i < 3; ++i) cudaGraphLaunch(executable, stream.get());
  cudaGraphExecDestroy(executable);
  CHECK(stream.end().empty());
  CHECK(value == 15);
}

TEST_CASE("simt: the first failure of a stream stays, with its message; other streams go on") {
  int value = 0;
  Stream stream, other;
  stream.give(+[] { simt::fail("spilt"); }, {1, 1});
  stream.give(+[] { simt::fail("milk"); }, {1, 1});
  CHECK(contains(stream.end(), "spilt (block 0,0,0 thread 0)"));
  CHECK(contains(stream.end(), "spilt"));
  other.give(add, {1, 1}, &value, 1);
  CHECK(other.end().empty());
  CHECK(value == 1);
}

TEST_CASE("simt: device memory starts as NaN") {
  void *memory = nullptr;
  REQUIRE(cudaMalloc(&memory, 100) == cudaSuccess);
  for (size_t i = 0; i < 25; ++i) CHECK(std::isnan(static_cast<const float *>(memory)[i]));
  CHECK(cudaFree(memory) == cudaSuccess);
  CHECK(cudaFree(memory) == cudaErrorInvalidValue);
}

void overrun(std::ptrdiff_t place) {
  void *memory = nullptr;
  REQUIRE(cudaMalloc(&memory, 100) == cudaSuccess);
  CHECK(launch(+[](char *to) { *to = 1; }, {1, 1}, static_cast<char *>(memory) + place).empty());
  cudaFree(memory);
}
TEST_CASE("simt child: writes the byte behind its memory" * doctest::skip()) { overrun(100); }
TEST_CASE("simt child: writes the byte before its memory" * doctest::skip()) { overrun(-1); }
TEST_CASE("simt child: writes the last byte of its memory" * doctest::skip()) { overrun(99); }

TEST_CASE("simt: a write beside an allocation ends the process when it is freed") {
  const Child behind = run_alone("simt child: writes the byte behind its memory");
  CHECK(!behind.clean);
  CHECK_MESSAGE(contains(behind.output, "byte 100 around an allocation of 100 bytes"), behind.output);
  const Child before = run_alone("simt child: writes the byte before its memory");
  CHECK(!before.clean);
  CHECK_MESSAGE(contains(before.output, "byte -1 around an allocation of 100 bytes"), before.output);
  const Child inside = run_alone("simt child: writes the last byte of its memory");
  CHECK_MESSAGE(inside.clean, inside.output);
}

}  // namespace
}  // namespace moe::test
