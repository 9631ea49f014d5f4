// Measures the best streaming read, and the peak of multiply-adds in f32, of dot products of bytes and, where the
// processor has them, of bf16 products, on the device's threads and instruction set. Each is the best of several patterns
// and thread placements: what slows one of them down is no limit.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>

#include "device.h"
#include "probes.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

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
  for (const OperationProbe probe : probes) best = std::max(best, measure_operations(device, probe));
  return best;
}

#if defined(__x86_64__)
// Dot products of bf16 pairs. Not in the vocabulary: processors with the same other instructions differ in this one.
[[gnu::target("avx512f,avx512bf16")]] double probe_bf16(int64_t rounds) {
  constexpr int chains = 12, lanes = 16;
  __m512 a[chains];
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) a[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512bh b = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3f003f00));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) a[i] = _mm512_dpbf16_ps(a[i], b, b);
  }
  __m512 all = a[0];
  for (int i = 1; i < chains; ++i) all = _mm512_add_ps(all, a[i]);
  volatile float keep = _mm512_cvtss_f32(all);
  static_cast<void>(keep);
  return static_cast<double>(rounds) * chains * lanes * 2 * 2;
}
#endif

double measure_bf16(const Device &device) {
#if defined(__x86_64__)
  if (device.isa().kernels == &avx512::kernels && __builtin_cpu_supports("avx512bf16"))
    return measure_operations(device, probe_bf16);
#else
  static_cast<void>(device);
#endif
  return 0;
}

}  // namespace

moe_limits measure_limits(const Device &device) {
  const Probes &probes = *device.isa().probes;
  return {measure_read(device), best_of(device, probes.multiply), best_of(device, probes.dot), measure_bf16(device)};
}

}  // namespace moe::cpu
