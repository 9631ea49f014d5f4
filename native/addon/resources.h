// The device's objects as shared owners: whoever uses one (a JavaScript object, a job in flight, a program) holds it,
// and the last one to let go releases it. All of them are created, shared and released on the JS thread; jobs carry
// them to workers and back.
#pragma once
#include <napi.h>

#include <cstdint>
#include <memory>
#include <unordered_set>
#include <vector>

#include "addon/loop.h"
#include "addon/worker.h"
#include "core/operations.h"
#include "moe/backend.h"
#include "moe/error.h"

namespace moe::addon {

// Tells the garbage collector of memory outside its heap, for as long as it lives. JS thread.
class ExternalBytes {
 public:
  ExternalBytes() = default;
  ExternalBytes(napi_env env, int64_t bytes);
  ~ExternalBytes();
  ExternalBytes(const ExternalBytes &) = delete;
  ExternalBytes &operator=(const ExternalBytes &) = delete;

 private:
  napi_env env_ = nullptr;
  int64_t bytes_ = 0;
};

// A JavaScript object's hold on something of a device. dispose() of the device lets go of all of them.
class Child {
 public:
  virtual ~Child() = default;
  virtual void drop() noexcept = 0;  // repeatable
};

struct DeviceResource {
  DeviceResource(const moe_backend &functions, moe_device *device) : backend(functions), handle(device) {}
  ~DeviceResource() { backend.release(MOE_KIND_DEVICE, handle); }
  DeviceResource(const DeviceResource &) = delete;
  DeviceResource &operator=(const DeviceResource &) = delete;
  const moe_backend &backend;
  moe_device *const handle;
  std::unordered_set<Child *> children;
  bool disposed = false;  // nothing new for JavaScript is made on it
};
using DevicePointer = std::shared_ptr<DeviceResource>;

struct BufferResource {
  BufferResource(napi_env env, DevicePointer owner, int64_t size);  // allocates; size 0 is legal
  ~BufferResource() { device->backend.release(MOE_KIND_BUFFER, handle); }
  BufferResource(const BufferResource &) = delete;
  BufferResource &operator=(const BufferResource &) = delete;
  const DevicePointer device;
  const int64_t bytes;
  moe_buffer *handle = nullptr;
  std::byte *host = nullptr;  // null where the host cannot reach it

 private:
  ExternalBytes external_;
};
using BufferPointer = std::shared_ptr<BufferResource>;

struct WeightResource {
  WeightResource(DevicePointer owner, moe_weight *weight) : device(std::move(owner)), handle(weight) {}
  ~WeightResource() { device->backend.release(MOE_KIND_WEIGHT, handle); }
  WeightResource(const WeightResource &) = delete;
  WeightResource &operator=(const WeightResource &) = delete;
  const DevicePointer device;
  moe_weight *const handle;
  WeightInfo info;
  std::unique_ptr<ExternalBytes> external;
};
using WeightPointer = std::shared_ptr<WeightResource>;

// A queue with its dispatcher and the arena that its programs share: it grows to the largest one's need and goes with
// the last.
struct QueueResource {
  QueueResource(std::shared_ptr<Loop> loop, DevicePointer owner, int32_t priority);
  ~QueueResource();
  QueueResource(const QueueResource &) = delete;
  QueueResource &operator=(const QueueResource &) = delete;
  // Waits for a ticket; throws its error.
  void wait(moe_ticket ticket) const;
  void join(napi_env env, const void *program, int64_t arena_bytes);
  void leave(const void *program) noexcept;

  const DevicePointer device;
  const uint64_t id;  // unlike an address, never used twice
  moe_queue *handle = nullptr;
  BufferPointer arena;
  Worker worker;

 private:
  std::unordered_set<const void *> programs_;
};
using QueuePointer = std::shared_ptr<QueueResource>;

}  // namespace moe::addon
