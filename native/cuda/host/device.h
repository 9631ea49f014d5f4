// A GPU: its properties, the memory it accounts for, and handles that give back what they hold.
#pragma once
#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "moe/backend.h"

namespace moe::cuda {

struct Work;

class Device {
 public:
  // options: lines of key=value. memoryLimit (bytes; 0: none); batchInvariant (0 or 1); traffic (0 or 1: `describe` then
  // lists the planned work of each kernel that was launched, and what it moved where that can be counted).
  Device(int32_t index, std::string_view options);

  // Makes this the device of the calling thread; every entry from the ABI does it first.
  void use() const;
  std::string describe() const;
  moe_memory memory() const;
  // Throws MOE_OUT_OF_MEMORY where the limit would be passed.
  void charge(int64_t bytes);
  void refund(int64_t bytes) { held_.fetch_sub(bytes, std::memory_order_relaxed); }

  // Adds to the planned work of a kernel; threads and dynamic shared memory of a block are kept at their largest.
  void count_work(const Work &work, unsigned threads, size_t shared_bytes) const;

  int32_t index() const { return index_; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  // 80 for an A100, 90 for an H100.
  int architecture() const { return properties_.major * 10 + properties_.minor; }
  size_t shared_bytes() const { return properties_.sharedMemPerBlockOptin; }
  // A row's result depends on that row alone: one kernel form for every number of rows.
  bool batch_invariant() const { return batch_invariant_; }

 private:
  std::string describe_traffic() const;

  int32_t index_;
  cudaDeviceProp properties_{};
  bool batch_invariant_ = false, traffic_ = false;
  struct Planned {
    int64_t launches = 0, bytes = 0, operations = 0;
    unsigned threads = 0;
    size_t shared_bytes = 0;
  };
  mutable std::mutex mutex_;
  mutable std::map<std::string, Planned> planned_;
  int64_t limit_ = 0;
  std::atomic<int64_t> held_{0}, peak_{0};
};

// Device memory that counts against a device.
class Memory {
 public:
  Memory() = default;
  Memory(std::shared_ptr<Device> device, size_t bytes);
  Memory(Memory &&other) noexcept;
  Memory &operator=(Memory &&other) noexcept;
  ~Memory();

  std::byte *data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<Device> device_;
  std::byte *data_ = nullptr;
  size_t bytes_ = 0;
};

// How many devices, or 0 with the reason in *error (argument: a word of docs/gpu.md).
int32_t count_devices(moe_error *error);
// Measures, about a second.
moe_limits measure_limits(const std::shared_ptr<Device> &device);

}  // namespace moe::cuda
