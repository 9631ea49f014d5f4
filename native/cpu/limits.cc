// Measures the best streaming read, and the peak of multiply-adds in f32, of dot products of bytes and, where the
// instruction set has them, of bf16, on the device's threads. Each is the best of several patterns and thread placements:
// what slows one of them down is no limit.
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

constexpr std::array read_patterns{ReadPattern{1, 0}, ReadPattern{1, 2048}, ReadPattern{2, 0}, ReadPattern{2, 1024},
                                   ReadPattern{4, 0}, ReadPattern{4, 1024}, ReadPattern{8, 0}};

// Memory far larger than the caches; a thread takes one contiguous share, or slices in turn with the others.
double measure_read(const Device &device) {
  constexpr int64_t slice = int64_t{1} << 20, slices = 256;
  const Memory memory(std::make_shared<Device>(""),
                      static_cast<size_t>(slice * slices));  // not charged to the device measured
  Pool &pool = Pool::shared();
  pool.parallel_for(slices, device.threads(),
                    [&](int64_t i, int) { std::memset(memory.data() + i * slice, 1, slice); });
  std::atomic<int32_t> sink{0};
  const auto pass = [&](int threads, int64_t tasks, ReadPattern pattern) {
    const int64_t unit = 512 * pattern.streams;
    const int64_t bytes = slice * slices / tasks / unit * unit;
    const auto start = Clock::now();
    pool.parallel_for(tasks, threads, [&](int64_t i, int) {
      sink += device.isa().probes->read(memory.data() + i * bytes, bytes, pattern);
    });
    return static_cast<double>(bytes * tasks) / seconds_since(start);
  };
  double best = 0;
  for (const ReadPattern pattern : read_patterns) {
    best = std::max(best, pass(1, 1, pattern));
    for (int round = 0; round < 2; ++round) {
      best = std::max(best, pass(device.threads(), device.threads(), pattern));
      best = std::max(best, pass(device.threads(), slices, pattern));
    }
  }
  return best;
}

double measure_operations(const Device &device, OperationProbe probe) {
  constexpr int64_t rounds = 250'000;  // a millisecond or so, so that some pass is not interrupted
  double best = 0;
  for (int round = 0; round < 12; ++round) {
    const int threads = round < 2 ? 1 : device.threads();
    std::atomic<int64_t> operations{0};
    const auto start = Clock::now();
    Pool::shared().parallel_for(threads, threads,
                                [&](int64_t, int) { operations += static_cast<int64_t>(probe(rounds)); });
    best = std::max(best, static_cast<double>(operations.load()) / seconds_since(start));
  }
  return best;
}

double best_of(const Device &device, const std::array<OperationProbe, chain_counts> &probes) {
  double best = 0;
  for (const OperationProbe probe : probes) {
    if (probe) best = std::max(best, measure_operations(device, probe));
  }
  return best;
}

}  // namespace

moe_limits measure_limits(const Device &device) {
  const Probes &probes = *device.isa().probes;
  return {measure_read(device), best_of(device, probes.multiply), best_of(device, probes.dot),
          best_of(device, probes.pairs)};
}

}  // namespace moe::cpu
