#include "addon/resources.h"

#include <atomic>

namespace moe::addon {

ExternalBytes::ExternalBytes(napi_env env, int64_t bytes) : env_(env), bytes_(bytes) {
  int64_t total = 0;
  napi_adjust_external_memory(env_, bytes_, &total);
}

ExternalBytes::~ExternalBytes() {
  int64_t total = 0;
  if (env_ != nullptr) napi_adjust_external_memory(env_, -bytes_, &total);
}

namespace {

moe_buffer *allocate(const DeviceResource &device, int64_t bytes) {
  moe_buffer *buffer = nullptr;
  check([&](moe_error *error) {
    return device.backend.allocate(device.handle, static_cast<size_t>(bytes > 0 ? bytes : 1), &buffer, error);
  });
  return buffer;
}

std::atomic<uint64_t> next_queue{1};

}  // namespace

BufferResource::BufferResource(napi_env env, DevicePointer owner, int64_t size)
    : device(std::move(owner)),
      bytes(size),
      handle(allocate(*device, size)),
      host(static_cast<std::byte *>(device->backend.host_address(handle))),
      external_(env, size) {}

QueueResource::QueueResource(std::shared_ptr<Loop> loop, DevicePointer owner, int32_t priority)
    : device(std::move(owner)), id(next_queue++), worker(std::move(loop)) {
  check([&](moe_error *error) { return device->backend.queue(device->handle, priority, &handle, error); });
}

QueueResource::~QueueResource() {
  worker.stop();
  device->backend.release(MOE_KIND_QUEUE, handle);
}

void QueueResource::wait(moe_ticket ticket) const {
  int32_t done = 0;
  moe_error error{};
  while (done == 0) {
    if (device->backend.wait(handle, ticket, -1, &done, &error) != MOE_OK) throw Error(error);
  }
}

void QueueResource::join(napi_env env, const void *program, int64_t arena_bytes) {
  if (!arena || arena->bytes < arena_bytes) {
    const int64_t had = arena ? arena->bytes : 0;
    const bool busy = arena && arena.use_count() > 1;
    if (!busy) arena.reset();  // gives the memory back before asking for more
    try {
      arena = std::make_shared<BufferResource>(env, device, arena_bytes);
    } catch (const Error &) {
      if (had > 0 && !arena) arena = std::make_shared<BufferResource>(env, device, had);  // the other programs' need
      throw;
    }
  }
  programs_.insert(program);
}

void QueueResource::leave(const void *program) noexcept {
  programs_.erase(program);
  if (programs_.empty()) arena.reset();
}

}  // namespace moe::addon
