#include "stream.h"

#include <cxxabi.h>
#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "launch.h"
#include "profile.h"

namespace moe::simt {

using Work = std::function<cudaError_t()>;

struct Stream {
  std::mutex mutex;
  std::deque<Work> pending;
  std::unique_ptr<std::vector<Work>> capture;
  cudaError_t failed = cudaSuccess;  // stays, as a device's error does
  std::string message;
};
struct Event {
  std::mutex mutex;
  Stream *stream = nullptr;  // where it is still to come
  std::chrono::steady_clock::time_point at;
};
struct Graph {
  std::vector<Work> work;
};

namespace {

thread_local std::string last_message;

// Bytes around an allocation that must still be there when it is freed.
constexpr size_t guard_bytes = 256;
constexpr unsigned char guard_value = 0xa5;

struct Allocations {
  std::mutex mutex;
  std::unordered_map<void *, size_t> bytes;
};
Allocations &allocations() {
  static Allocations all;
  return all;
}

cudaError_t push(Stream *stream, Work work) {
  const std::lock_guard lock(stream->mutex);
  if (stream->capture) {
    stream->capture->push_back(std::move(work));
  } else {
    stream->pending.push_back(std::move(work));
  }
  return cudaSuccess;
}

// Runs what is pending, up to where `event` was recorded if one is given.
cudaError_t drain(Stream *stream, const Event *until = nullptr) {
  const std::unique_lock lock(stream->mutex);
  while (!stream->pending.empty() && (!until || until->stream == stream)) {
    const Work work = std::move(stream->pending.front());
    stream->pending.pop_front();
    const cudaError_t error = work();
    if (error == cudaSuccess || stream->failed != cudaSuccess) continue;
    stream->failed = error;
    stream->message = last_message;
  }
  if (stream->failed != cudaSuccess) last_message = stream->message;
  return stream->failed;
}

}  // namespace

const char *kernel_name(const void *kernel) {
  static std::mutex mutex;
  static std::unordered_map<const void *, std::string> names;
  const std::lock_guard lock(mutex);
  const auto [at, fresh] = names.try_emplace(kernel);
  if (fresh) {
    Dl_info info{};
    at->second = "kernel";
    if (dladdr(kernel, &info) && info.dli_sname) {
      const std::unique_ptr<char, decltype(&std::free)> plain(
          abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, nullptr), std::free);
      at->second = plain ? plain.get() : info.dli_sname;
    }
  }
  return at->second.c_str();
}

cudaError_t enqueue_launch(Stream *stream, const Shape &shape, std::function<void()> body) {
  return push(stream, [shape, body = std::move(body)] {
    const profile::Launch counted(shape.name);
    const std::string failure = launch(shape, body);
    if (failure.empty()) return cudaSuccess;
    last_message = failure;
    return cudaErrorLaunchFailure;
  });
}

}  // namespace moe::simt

using namespace moe::simt;

const char *cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    default:
      return "cudaError";
  }
}
const char *cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? last_message.c_str() : cudaGetErrorName(error);
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *count) { return *count = 1, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = 13000, cudaSuccess; }

// As a small Hopper, so that its kernels are chosen; four multiprocessors, so that few fibers stand for a whole device.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int) {
  *properties = {};
  std::strcpy(properties->name, "simt");
  properties->totalGlobalMem = size_t{1} << 40;
  properties->sharedMemPerBlockOptin = 227 << 10;
  properties->major = 9;
  properties->multiProcessorCount = 4;
  properties->l2CacheSize = 50 << 20;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) { return *free = *total = size_t{1} << 40, cudaSuccess; }

cudaError_t cudaMalloc(void **address, size_t bytes) {
  if (bytes > size_t{1} << 40) return cudaErrorMemoryAllocation;
  const size_t whole = (bytes + 255) / 256 * 256 + 2 * guard_bytes;
  auto *const memory = static_cast<unsigned char *>(std::aligned_alloc(256, whole));
  if (!memory) return cudaErrorMemoryAllocation;
  std::memset(memory, guard_value, guard_bytes);
  std::memset(memory + guard_bytes, 0xff, bytes);
  std::memset(memory + guard_bytes + bytes, guard_value, whole - guard_bytes - bytes);
  *address = memory + guard_bytes;
  const std::lock_guard lock(allocations().mutex);
  allocations().bytes[*address] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void *address) {
  if (!address) return cudaSuccess;
  size_t bytes;
  {
    const std::lock_guard lock(allocations().mutex);
    const auto at = allocations().bytes.find(address);
    if (at == allocations().bytes.end()) return cudaErrorInvalidValue;
    bytes = at->second;
    allocations().bytes.erase(at);
  }
  auto *const data = static_cast<unsigned char *>(address), *const memory = data - guard_bytes;
  const size_t whole = (bytes + 255) / 256 * 256 + 2 * guard_bytes;
  for (size_t i = 0; i < whole; ++i) {
    if ((i < guard_bytes || i >= guard_bytes + bytes) && memory[i] != guard_value) {
      // Nobody asks for the result of a free; a kernel that writes past a buffer must not go on unseen.
      std::fprintf(stderr, "simt: byte %zd around an allocation of %zu bytes was overwritten\n",
                   static_cast<ptrdiff_t>(i) - static_cast<ptrdiff_t>(guard_bytes), bytes);
      std::abort();
    }
  }
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void **address, size_t bytes) {
  *address = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *address ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void *address) { return std::free(address), cudaSuccess; }

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind) {
  return std::memcpy(to, from, bytes), cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return push(stream, [=] { return std::memcpy(to, from, bytes), cudaSuccess; });
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
  return push(stream, [=] { return std::memset(to, value, bytes), cudaSuccess; });
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned, int) {
  return *stream = std::make_unique<Stream>().release(), cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::unique_ptr<Stream> last(stream);
  return drain(stream);
}
// The default stream has only copies, which are done at once.
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return stream ? drain(stream) : cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  return *least = 0, *greatest = -5, cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::lock_guard lock(stream->mutex);
  stream->capture = std::make_unique<std::vector<Work>>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  const std::lock_guard lock(stream->mutex);
  if (!stream->capture) return cudaErrorInvalidValue;
  *graph = std::make_unique<Graph>(Graph{std::move(*stream->capture)}).release();
  stream->capture.reset();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long) {
  return *executable = std::make_unique<Graph>(*graph).release(), cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  // Copied: a graph may be destroyed while a launch of it is still to run.
  for (const Work &work : executable->work) push(stream, work);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const std::unique_ptr<Graph> last(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return cudaGraphDestroy(executable); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
  return *event = std::make_unique<Event>().release(), cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  cudaEventSynchronize(event);
  const std::unique_ptr<Event> last(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->stream = stream;
  return push(stream, [=] {
    event->stream = nullptr;
    event->at = std::chrono::steady_clock::now();
    return cudaSuccess;
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Stream *const stream = event->stream;
  return stream ? drain(stream, event) : cudaSuccess;
}
// A poll brings the work one step on, so that who polls gets there.
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
  return cudaSuccess;
}
