#include "device.h"

#include <charconv>
#include <cstdlib>
#include <utility>

#include "moe/checked.h"
#include "moe/error.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace moe::cpu {
namespace {

constexpr size_t huge_page = size_t{2} << 20;
constexpr size_t most_bytes = size_t{1} << 46;  // of an address space of 2^47

int64_t parse_count(std::string_view key, std::string_view value, int64_t least, int64_t most) {
  int64_t count = 0;
  const auto [end, failure] = std::from_chars(value.data(), value.data() + value.size(), count);
  if (failure != std::errc() || end != value.data() + value.size() || count < least || count > most) {
    throw Error(MOE_INVALID_ARGUMENT, key, "an integer from " + std::to_string(least) + " to " + std::to_string(most),
                value);
  }
  return count;
}

}  // namespace

Device::Device(std::string_view options) : threads_(Pool::cores()) {
  std::string_view isa;
  while (!options.empty()) {
    const std::string_view line = options.substr(0, options.find('\n'));
    options.remove_prefix(line.size() < options.size() ? line.size() + 1 : line.size());
    if (line.empty()) continue;
    const size_t equals = line.find('=');
    const std::string_view key = line.substr(0, equals);
    const std::string_view value = equals == std::string_view::npos ? "" : line.substr(equals + 1);
    if (key == "isa") {
      isa = value;
    } else if (key == "threads") {
      threads_ = static_cast<int>(parse_count(key, value, 1, 256));
    } else if (key == "memoryLimit") {
      limit_ = parse_count(key, value, 0, INT64_MAX);
    } else {
      throw Error(MOE_INVALID_ARGUMENT, key, "isa, threads or memoryLimit", line);
    }
  }
  isa_ = &choose_instruction_set(isa);
}

std::string Device::describe() const {
  return "{\"name\":\"cpu\",\"isa\":\"" + std::string(isa_->name) + "\",\"availableIsas\":[\"" +
         available_instruction_sets("\",\"") + "\"],\"threads\":" + std::to_string(threads_) +
         ",\"cores\":" + std::to_string(Pool::cores()) + ",\"processor\":\"" + processor_name() + "\"}";
}

moe_memory Device::memory() const {
  return {held_.load(std::memory_order_relaxed), peak_.load(std::memory_order_relaxed), limit_};
}

void Device::charge(int64_t bytes) {
  int64_t held = held_.load(std::memory_order_relaxed);
  int64_t wanted;
  do {
    wanted = checked_add(held, bytes, "bytes");
    if (limit_ > 0 && wanted > limit_) {
      throw Error(MOE_OUT_OF_MEMORY, "memoryLimit", "at most " + std::to_string(limit_) + " bytes",
                  std::to_string(held) + " held and " + std::to_string(bytes) + " more");
    }
  } while (!held_.compare_exchange_weak(held, wanted, std::memory_order_relaxed));
  int64_t peak = peak_.load(std::memory_order_relaxed);
  while (peak < wanted && !peak_.compare_exchange_weak(peak, wanted, std::memory_order_relaxed)) {
  }
}

Memory::Memory(std::shared_ptr<Device> device, size_t bytes) : device_(std::move(device)), bytes_(bytes) {
  if (bytes > most_bytes) throw Error(MOE_OUT_OF_MEMORY, "bytes", "at most 2^46", std::to_string(bytes));
  device_->charge(static_cast<int64_t>(bytes));
  const size_t alignment = bytes >= 2 * huge_page ? huge_page : 64;
  const size_t whole = (bytes + alignment - 1) / alignment * alignment + (bytes == 0 ? alignment : 0);
  data_ = static_cast<std::byte *>(std::aligned_alloc(alignment, whole));
  if (!data_) {
    device_->refund(static_cast<int64_t>(bytes));
    throw Error(MOE_OUT_OF_MEMORY, "", std::to_string(bytes) + " bytes of host memory", "an allocation that failed");
  }
#if defined(__linux__)
  if (alignment == huge_page) madvise(data_, whole, MADV_HUGEPAGE);  // a hint: streaming reads miss the TLB less
#endif
}

Memory::Memory(Memory &&other) noexcept
    : device_(std::move(other.device_)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Memory &Memory::operator=(Memory &&other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Memory::~Memory() {
  if (!data_) return;
  std::free(data_);
  device_->refund(static_cast<int64_t>(bytes_));
}

}  // namespace moe::cpu
