// A device: the instruction set and the thread count that it uses, and the memory that it accounts for.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "dispatch.h"
#include "moe/backend.h"

namespace moe::cpu {

class Device {
 public:
  // options: lines of key=value. isa (a name, or auto), threads, memoryLimit (bytes; 0: none).
  explicit Device(std::string_view options);

  const InstructionSet &isa() const { return *isa_; }
  int threads() const { return threads_; }
  std::string describe() const;
  moe_memory memory() const;

  // Throws MOE_OUT_OF_MEMORY where the limit would be passed.
  void charge(int64_t bytes);
  void refund(int64_t bytes) { held_.fetch_sub(bytes, std::memory_order_relaxed); }

 private:
  const InstructionSet *isa_;
  int threads_;
  int64_t limit_ = 0;
  std::atomic<int64_t> held_{0}, peak_{0};
};

// Aligned bytes that count against a device.
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

// Measures, about a second.
moe_limits measure_limits(const Device &device);

}  // namespace moe::cpu
