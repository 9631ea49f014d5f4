// Measures the best streaming read, and the peak of multiply-adds and byte dot products, on the device's threads and
// instruction set.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>

#include "device.h"
#include "probes.h"

namespace moe::cpu {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Best of several passes over memory far larger than the caches: one stream a thread, on one thread and on all.
double measure_read(const Device &device) {
  constexpr int64_t slice = int64_t{1} << 20, slices = 256;
  const Memory memory(std::make_shared<Device>(""),
                      static_cast<size_t>(slice * slices));  // not charged to the device measured
  Pool &pool = Pool::shared();
  pool.parallel_for(slices, device.threads(),
                    [&](int64_t i, int) { std::memset(memory.data() + i * slice, 1, slice); });
  std::atomic<int32_t> sink{0};
  double best = 0;
  for (int round = 0; round < 12; ++round) {
    const int threads = round < 2 ? 1 : device.threads();
    const bool shares = round % 2 == 0;  // a contiguous share a thread, or slices in turn
    const int64_t tasks = shares ? threads : slices;
    const int64_t bytes = slice * slices / tasks / 512 * 512;
    const auto start = Clock::now();
    pool.parallel_for(tasks, threads,
                      [&](int64_t i, int) { sink += device.isa().probes->read(memory.data() + i * bytes, bytes); });
    best = std::max(best, static_cast<double>(bytes * tasks) / seconds_since(start));
  }
  return best;
}

double measure_operations(const Device &device, double (*probe)(int64_t rounds)) {
  constexpr int64_t rounds = 500'000;  // a few milliseconds, so that some pass is not interrupted
  double best = 0;
  for (int round = 0; round < 20; ++round) {
    std::atomic<int64_t> operations{0};
    const auto start = Clock::now();
    Pool::shared().parallel_for(device.threads(), device.threads(),
                                [&](int64_t, int) { operations += static_cast<int64_t>(probe(rounds)); });
    best = std::max(best, static_cast<double>(operations.load()) / seconds_since(start));
  }
  return best;
}

}  // namespace

moe_limits measure_limits(const Device &device) {
  return {measure_read(device), measure_operations(device, device.isa().probes->multiply),
          measure_operations(device, device.isa().probes->dot)};
}

}  // namespace moe::cpu
