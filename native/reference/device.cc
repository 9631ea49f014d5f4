// Device memory: what is held, the most that was held, and the limit; buffers.
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "reference.h"

namespace moe::reference {

Charge::Charge(std::shared_ptr<moe_device> device, int64_t bytes) : bytes_(bytes) {
  const std::lock_guard lock(device->mutex);
  moe_memory &memory = device->memory;
  const int64_t held = checked_add(memory.held, bytes, "bytes");
  if (memory.limit > 0 && held > memory.limit) {
    throw Error(MOE_OUT_OF_MEMORY, "memoryLimit", "at most " + std::to_string(memory.limit) + " bytes held",
                std::to_string(bytes) + " more than the " + std::to_string(memory.held) + " held");
  }
  memory.held = held;
  memory.peak = std::max(memory.peak, held);
  device_ = std::move(device);
}

Charge::~Charge() {
  if (!device_) return;
  const std::lock_guard lock(device_->mutex);
  device_->memory.held -= bytes_;
}

namespace {

int64_t charged_bytes(size_t bytes) {
  expect(bytes <= static_cast<size_t>(std::numeric_limits<int64_t>::max() / 2), "bytes", "a size below 2^62", -1);
  return std::max<int64_t>(align_up(static_cast<int64_t>(bytes)), 64);
}

}  // namespace

}  // namespace moe::reference

moe_buffer::moe_buffer(std::shared_ptr<moe_device> owner, size_t size)
    : device(std::move(owner)),
      charge(device, moe::reference::charged_bytes(size)),
      bytes(size),
      data(static_cast<std::byte *>(std::aligned_alloc(64, static_cast<size_t>(moe::reference::charged_bytes(size))))) {
  if (!data) {
    throw moe::Error(MOE_OUT_OF_MEMORY, "bytes", "enough host memory", std::to_string(bytes) + " bytes asked for");
  }
  std::memset(data.get(), moe::reference::poison, bytes);
}
