// The limits that kernels are held against, measured: streaming reads, f32 multiply-adds, and matrix products of bf16 and
// of bytes.
//
// Each probe runs long enough to fill the device and reports the best of several launches, timed by events. Matrix products
// are those of mma.sync: on sm_90 wgmma can do more, so a share above 1 is possible there.
#include <ptx.h>

#include <algorithm>

#include "host/check.h"
#include "host/device.h"
#include "host/launcher.h"
#include "host/objects.h"
#include "host/traffic.h"
#include "kernel/frame.h"

namespace moe::cuda {

inline constexpr unsigned probe_threads = 256;

// Each thread keeps `loads` loads of sixteen bytes under way; a block reads a stretch, or the grid goes through memory side
// by side. The sum is written where it is 1 in every word, which it never is: or nothing would be loaded.
template <int loads, bool stretches>
__global__ void __launch_bounds__(probe_threads)
    read_probe(const Frame *, const uint4 *data, int64_t count, uint32_t *sink) {
  const int64_t each = stretches ? count / gridDim.x : count;
  const uint4 *const from = data + (stretches ? blockIdx.x * each : 0);
  const int64_t step = stretches ? probe_threads : int64_t{gridDim.x} * probe_threads;
  uint32_t sum = 0;
  int64_t i = (stretches ? 0 : int64_t{blockIdx.x} * probe_threads) + threadIdx.x;
  for (; i + (loads - 1) * step < each; i += loads * step) {
    uint4 v[loads];
#pragma unroll
    for (int j = 0; j < loads; ++j) v[j] = ptx::load_once(from + i + j * step);
#pragma unroll
    for (int j = 0; j < loads; ++j) sum |= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (sum == 1) *sink = sum;
}

__global__ void __launch_bounds__(probe_threads) f32_probe(const Frame *, int rounds, float factor, uint32_t *sink) {
  float sum[16];
#pragma unroll
  for (int j = 0; j < 16; ++j) sum[j] = static_cast<float>(threadIdx.x + static_cast<unsigned>(j));
  for (int i = 0; i < rounds; ++i) {
#pragma unroll
    for (int j = 0; j < 16; ++j) sum[j] = __fmaf_rn(sum[j], factor, factor);
  }
  float all = 0;
#pragma unroll
  for (int j = 0; j < 16; ++j) all += sum[j];
  if (all == 1.0f) *sink = 1;
}

struct Bf16Product {
  using Sum = float;
  static __device__ __forceinline__ void run(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_bf16(d, a, b);
  }
};
struct Int8Product {
  using Sum = int32_t;
  static __device__ __forceinline__ void run(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_s8(d, a, b);
  }
};
// Eight sums a warp, so that no product waits for the one before.
template <typename Product>
__global__ void __launch_bounds__(probe_threads)
    product_probe(const Frame *, int rounds, uint32_t bits, uint32_t *sink) {
  typename Product::Sum sum[8][4]{};
  const uint32_t a[4] = {bits, bits + threadIdx.x, bits, bits}, b[2] = {bits, bits};
  for (int i = 0; i < rounds; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) Product::run(sum[j], a, b);
  }
  typename Product::Sum all = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) all += sum[j][0] + sum[j][1] + sum[j][2] + sum[j][3];
  if (all == 1) *sink = 1;
}

namespace {

class Probe {
 public:
  explicit Probe(const std::shared_ptr<Device> &device) : device_(device), queue_(device, 0), sink_(device, 256) {}

  // Best of several launches, in units of `amount` a second.
  template <typename... Parameters, typename... Arguments>
  double best(double amount, unsigned blocks, void (*kernel)(const Frame *, Parameters...), Arguments... arguments) {
    Launcher launcher(*device_, queue_.stream, nullptr);
    float shortest = 0;
    for (int i = 0; i < 6; ++i) {
      const Event begin, end;
      MOE_CUDA(cudaEventRecord(begin.get(), queue_.stream));
      launcher.run({"limits"}, kernel, {dim3(blocks), probe_threads}, arguments..., sink());
      MOE_CUDA(cudaEventRecord(end.get(), queue_.stream));
      MOE_CUDA(cudaEventSynchronize(end.get()));
      float milliseconds = 0;
      MOE_CUDA(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()));
      if (i == 0 || milliseconds < shortest) shortest = milliseconds;
    }
    return shortest > 0 ? amount / shortest * 1e3 : 0;
  }

  void fill(const Memory &memory) { Launcher(*device_, queue_.stream, nullptr).fill(memory.data(), 0, memory.bytes()); }

 private:
  uint32_t *sink() const { return reinterpret_cast<uint32_t *>(sink_.data()); }

  std::shared_ptr<Device> device_;
  Queue queue_;
  Memory sink_;
};

double measure_read(Probe &probe, const std::shared_ptr<Device> &device) {
  // Far more than any L2 holds; not charged against the caller's limit.
  constexpr int64_t bytes = int64_t{1} << 30, count = bytes / 16;
  const Memory memory(std::make_shared<Device>(device->index(), ""), bytes);
  probe.fill(memory);
  const auto *const data = reinterpret_cast<const uint4 *>(memory.data());
  double best = 0;
  for (const int waves : {2, 8, 32}) {
    const auto blocks = static_cast<unsigned>(waves * device->multiprocessors());
    for (const double rate : {probe.best(bytes, blocks, read_probe<4, false>, data, count),
                              probe.best(bytes, blocks, read_probe<8, false>, data, count),
                              probe.best(bytes, blocks, read_probe<8, true>, data, count)})
      best = std::max(best, rate);
  }
  return best;
}

}  // namespace

moe_limits measure_limits(const std::shared_ptr<Device> &device) {
  if (!measures_time()) return {};
  Probe probe(device);
  constexpr int rounds = 4096;
  const auto blocks = static_cast<unsigned>(8 * device->multiprocessors());
  const double threads = static_cast<double>(blocks) * probe_threads, warps = threads / 32;
  moe_limits limits{};
  limits.read_bytes_per_second = measure_read(probe, device);
  limits.f32_operations_per_second = probe.best(threads * rounds * 16 * 2, blocks, f32_probe, rounds, 1e-3f);
  limits.bf16_operations_per_second =
      probe.best(warps * rounds * 8 * (2.0 * 16 * 8 * 16), blocks, product_probe<Bf16Product>, rounds, 0x3f803f80u);
  limits.int8_operations_per_second =
      probe.best(warps * rounds * 8 * (2.0 * 16 * 8 * 32), blocks, product_probe<Int8Product>, rounds, 0x01010101u);
  return limits;
}

}  // namespace moe::cuda
