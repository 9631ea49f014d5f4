#include "device.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <utility>

#include "check.h"
#include "launcher.h"
#include "moe/checked.h"
#include "moe/error.h"
#include "traffic.h"

namespace moe::cuda {
namespace {

int64_t parse_count(std::string_view key, std::string_view value, int64_t most) {
  int64_t count = 0;
  const auto [end, failure] = std::from_chars(value.data(), value.data() + value.size(), count);
  if (failure != std::errc() || end != value.data() + value.size() || count < 0 || count > most)
    throw Error(MOE_INVALID_ARGUMENT, key, "an integer from 0 to " + std::to_string(most), value);
  return count;
}

// Whether this library has code for a device: machine code runs on later minors of its major (of "90a" on 9.0 alone), PTX
// on everything later. MOE_CUDA_ARCHITECTURES is CMake's list, such as "80,90a-real".
bool built_for(const cudaDeviceProp &device) {
  const int own = device.major * 10 + device.minor;
  for (std::string_view list = MOE_CUDA_ARCHITECTURES; !list.empty();) {
    const std::string_view item = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), item.size() + 1));
    int number = 0;
    const auto [end, failure] = std::from_chars(item.data(), item.data() + item.size(), number);
    if (failure != std::errc()) continue;
    const bool exact = end != item.data() + item.size() && *end == 'a', real = !item.ends_with("-virtual");
    const bool ptx = !item.ends_with("-real");
    if (real && (exact ? own == number : own / 10 == number / 10 && own >= number)) return true;
    if (ptx && !exact && own >= number) return true;
  }
  return false;
}

Error not_built_for(const cudaDeviceProp &device) {
  return Error(MOE_DEVICE_UNAVAILABLE, "architectureNotBuilt", "a GPU of one of " MOE_CUDA_ARCHITECTURES,
               std::string(device.name) + ", " + std::to_string(device.major * 10 + device.minor));
}

}  // namespace

Device::Device(int32_t index, std::string_view options) : index_(index) {
  while (!options.empty()) {
    const std::string_view line = options.substr(0, options.find('\n'));
    options.remove_prefix(line.size() < options.size() ? line.size() + 1 : line.size());
    if (line.empty()) continue;
    const size_t equals = line.find('=');
    const std::string_view key = line.substr(0, equals);
    const std::string_view value = equals == std::string_view::npos ? "" : line.substr(equals + 1);
    if (key == "memoryLimit") {
      limit_ = parse_count(key, value, INT64_MAX);
    } else if (key == "batchInvariant") {
      batch_invariant_ = parse_count(key, value, 1) == 1;
    } else if (key == "traffic") {
      traffic_ = parse_count(key, value, 1) == 1;
    } else {
      throw Error(MOE_INVALID_ARGUMENT, key, "memoryLimit, batchInvariant or traffic", line);
    }
  }
  MOE_CUDA(cudaGetDeviceProperties(&properties_, index));
  if (!built_for(properties_)) throw not_built_for(properties_);
  use();
  if (traffic_) count_traffic();
}

void Device::use() const { MOE_CUDA(cudaSetDevice(index_)); }

std::string Device::describe() const {
  int driver = 0, runtime = 0;
  MOE_CUDA(cudaDriverGetVersion(&driver));
  MOE_CUDA(cudaRuntimeGetVersion(&runtime));
  const auto version = [](int number) {
    return "\"" + std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10) + "\"";
  };
  return "{\"name\":\"" MOE_CUDA_NAME "\",\"gpu\":\"" + std::string(properties_.name) +
         "\",\"architecture\":" + std::to_string(architecture()) +
         ",\"multiprocessors\":" + std::to_string(multiprocessors()) +
         ",\"memoryBytes\":" + std::to_string(properties_.totalGlobalMem) +
         ",\"batchInvariant\":" + (batch_invariant_ ? "true" : "false") + ",\"driver\":" + version(driver) +
         ",\"runtime\":" + version(runtime) + (traffic_ ? describe_traffic() : "") + "}";
}

std::string Device::describe_traffic() const {
  const std::lock_guard lock(mutex_);
  std::string text = ",\"planned\":{";
  for (const auto &[kernel, planned] : planned_) {
    text += (text.ends_with("{") ? "\"" : ",\"") + kernel + "\":{\"launches\":" + std::to_string(planned.launches) +
            ",\"bytes\":" + std::to_string(planned.bytes) + ",\"operations\":" + std::to_string(planned.operations) +
            ",\"threads\":" + std::to_string(planned.threads) + ",\"shared\":" + std::to_string(planned.shared_bytes) +
            "}";
  }
  const std::string counted = counted_traffic();
  return text + "}" + (counted.empty() ? "" : ",\"counted\":" + counted);
}

void Device::count_work(const Work &work, unsigned threads, size_t shared_bytes) const {
  if (!traffic_) return;
  const std::lock_guard lock(mutex_);
  Planned &planned = planned_[work.kernel];
  ++planned.launches;
  planned.bytes += work.bytes;
  planned.operations += work.operations;
  planned.threads = std::max(planned.threads, threads);
  planned.shared_bytes = std::max(planned.shared_bytes, shared_bytes);
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
  if (bytes > size_t{1} << 46) throw Error(MOE_OUT_OF_MEMORY, "bytes", "at most 2^46", std::to_string(bytes));
  device_->use();
  device_->charge(static_cast<int64_t>(bytes));
  void *data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes == 0 ? 1 : bytes);
  if (error != cudaSuccess) {
    device_->refund(static_cast<int64_t>(bytes));
    cudaGetLastError();  // or the next launch would report it again
    check_cuda(error, "cudaMalloc");
  }
  data_ = static_cast<std::byte *>(data);
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
  cudaFree(data_);
  device_->refund(static_cast<int64_t>(bytes_));
}

int32_t count_devices(moe_error *error) {
  int count = 0;
  const cudaError_t failed = cudaGetDeviceCount(&count);
  cudaDeviceProp unfit{};
  for (int i = 0; failed == cudaSuccess && i < count; ++i) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, i) == cudaSuccess && built_for(properties)) return count;
    unfit = properties;
  }
  if (failed == cudaSuccess && count > 0) return *error = not_built_for(unfit).get(), 0;
  int driver = 0;
  cudaDriverGetVersion(&driver);
  const std::string found =
      failed == cudaSuccess ? "no device" : std::string(cudaGetErrorName(failed)) + ": " + cudaGetErrorString(failed);
  const auto because = [&](const char *reason, const char *expected, const std::string &received) {
    *error = Error(MOE_DEVICE_UNAVAILABLE, reason, expected, received).get();
    return 0;
  };
  if (driver == 0) return because("noDriver", "an NVIDIA driver (libcuda.so.1)", found);
  if (failed == cudaErrorInsufficientDriver)
    return because("driverTooOld", "a driver for CUDA 13.0 or newer",
                   "one for CUDA " + std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10));
  if (failed == cudaErrorNotPermitted || failed == cudaErrorOperatingSystem || failed == cudaErrorSystemNotReady)
    return because("notPermitted", "a GPU that this process may use", found);
  if (failed == cudaErrorMemoryAllocation) return because("outOfMemory", "free memory on the GPU", found);
  return because("noDevice", "at least one NVIDIA GPU", found);
}

}  // namespace moe::cuda
