// The C ABI of the cuda backend (and, compiled over the simt shim, of the simt device). Work is enqueued on a stream; a
// ticket is done when its event is.
#include <cstring>
#include <memory>
#include <string>

#include "check.h"
#include "moe/error.h"
#include "objects.h"
#include "traffic.h"

namespace moe::cuda {
namespace {

template <typename Object>
void need(const Object *object, std::string_view name) {
  if (!object) throw Error(MOE_INVALID_ARGUMENT, name, "an object", "none");
}
template <typename Inner, typename Outer>
Inner &inner(Outer *object, std::string_view name) {
  need(object, name);
  return *reinterpret_cast<Inner *>(object);
}
const std::shared_ptr<Device> &device_of(moe_device *device) {
  const std::shared_ptr<Device> &own = inner<DeviceHandle>(device, "device").device;
  own->use();
  return own;
}

template <typename Outer, typename Inner>
void hand_out(std::shared_ptr<Inner> made, Outer **to) {
  *to = reinterpret_cast<Outer *>(made.get());
  made->maker = std::move(made);
}
// A copy of what `maker` refers to dies with the last job, not inside the object itself.
template <typename Inner>
void give_up(void *object) {
  const std::shared_ptr<Inner> last = std::move(static_cast<Inner *>(object)->maker);
}

int count(int32_t *count, moe_error *error) {
  moe_error reason{};
  return guarded(error, [&] {
    *count = count_devices(&reason);
    if (*count == 0) *error = reason;
  });
}

int open(int32_t index, const char *options, moe_device **device, moe_error *error) {
  return guarded(error, [&] {
    moe_error reason{};
    const int32_t devices = count_devices(&reason);
    if (devices == 0) throw Error(reason);
    if (index < 0 || index >= devices)
      throw Error(MOE_DEVICE_UNAVAILABLE, "index", "below " + std::to_string(devices), std::to_string(index));
    auto handle = std::make_shared<DeviceHandle>();
    handle->device = std::make_shared<Device>(index, options ? options : "");
    hand_out(std::move(handle), device);
  });
}

int describe(moe_device *device, char *json, size_t bytes, moe_error *error) {
  return guarded(error, [&] {
    const std::string text = device_of(device)->describe();
    if (bytes <= text.size())
      throw Error(MOE_INVALID_ARGUMENT, "bytes", "at least " + std::to_string(text.size() + 1), std::to_string(bytes));
    std::memcpy(json, text.c_str(), text.size() + 1);
  });
}

int memory(moe_device *device, moe_memory *memory, moe_error *error) {
  return guarded(error, [&] { *memory = device_of(device)->memory(); });
}

int limits(moe_device *device, moe_limits *limits, moe_error *error) {
  return guarded(error, [&] { *limits = measure_limits(device_of(device)); });
}

int queue(moe_device *device, int32_t priority, moe_queue **queue, moe_error *error) {
  return guarded(error, [&] { hand_out(std::make_shared<Queue>(device_of(device), priority), queue); });
}

int allocate(moe_device *device, size_t bytes, moe_buffer **buffer, moe_error *error) {
  return guarded(error, [&] {
    auto made = std::make_shared<Buffer>();
    made->memory = Memory(device_of(device), bytes);
    hand_out(std::move(made), buffer);
  });
}

void *host_address(moe_buffer *) { return nullptr; }

std::byte *place_in(const Buffer &buffer, size_t offset, size_t bytes, std::string_view name) {
  if (offset > buffer.memory.bytes() || bytes > buffer.memory.bytes() - offset)
    throw Error(MOE_INVALID_ARGUMENT, name, "bytes inside a buffer of " + std::to_string(buffer.memory.bytes()),
                std::to_string(offset) + " + " + std::to_string(bytes));
  return buffer.memory.data() + offset;
}

int write(moe_queue *queue, moe_buffer *to, size_t offset, const void *from, size_t bytes, moe_ticket *ticket,
          moe_error *error) {
  return guarded(error, [&] {
    Queue &on = inner<Queue>(queue, "queue");
    Buffer &buffer = inner<Buffer>(to, "to");
    std::byte *const place = place_in(buffer, offset, bytes, "to");
    if (bytes > 0) need(from, "from");
    Job job;
    job.holds.push_back(buffer.shared_from_this());
    *ticket = on.give(std::move(job), [&](Job &) {
      if (bytes > 0) MOE_CUDA(cudaMemcpyAsync(place, from, bytes, cudaMemcpyHostToDevice, on.stream));
    });
  });
}

int read(moe_queue *queue, moe_buffer *from, size_t offset, void *to, size_t bytes, moe_ticket *ticket,
         moe_error *error) {
  return guarded(error, [&] {
    Queue &on = inner<Queue>(queue, "queue");
    Buffer &buffer = inner<Buffer>(from, "from");
    const std::byte *const place = place_in(buffer, offset, bytes, "from");
    if (bytes > 0) need(to, "to");
    Job job;
    job.holds.push_back(buffer.shared_from_this());
    *ticket = on.give(std::move(job), [&](Job &) {
      if (bytes > 0) MOE_CUDA(cudaMemcpyAsync(to, place, bytes, cudaMemcpyDeviceToHost, on.stream));
    });
  });
}

int weight_begin(moe_device *device, const moe_weight_spec *spec, moe_weight **weight, moe_error *error) {
  return guarded(error, [&] {
    need(spec, "spec");
    hand_out(std::make_shared<Weight>(Bank(device_of(device), *spec)), weight);
  });
}

int weight_put(moe_weight *weight, int32_t part, int32_t slot, int64_t row, int64_t rows, const moe_plain *plain,
               moe_error *error) {
  return guarded(error, [&] {
    need(plain, "plain");
    inner<Weight>(weight, "weight").bank.put(part, slot, row, rows, *plain);
  });
}

int weight_finish(moe_weight *weight, size_t *bytes, moe_error *error) {
  return guarded(error, [&] {
    *bytes = inner<Weight>(weight, "weight").bank.finish();
    // A copy from pageable memory may still be on its way when it returns, and queues do not wait for it.
    MOE_CUDA(cudaStreamSynchronize(nullptr));
  });
}

int scratch(moe_device *device, const moe_graph *graph, int64_t *per_node, moe_error *error) {
  return guarded(error, [&] {
    need(graph, "graph");
    const Program program(device_of(device), *graph);
    for (const int64_t bytes : program.scratch()) *per_node++ = bytes;
  });
}

int compile(moe_device *device, const moe_graph *graph, moe_program **program, moe_error *error) {
  return guarded(error, [&] {
    need(graph, "graph");
    hand_out(std::make_shared<Program>(device_of(device), *graph), program);
  });
}

int run(moe_queue *queue, const moe_run *run, moe_ticket *ticket, moe_error *error) {
  return guarded(error, [&] {
    Queue &on = inner<Queue>(queue, "queue");
    need(run, "run");
    Program &program = inner<Program>(run->program, "program");
    program.check_run(*run);
    Job job;
    job.cancel = run->cancel;
    job.profile = run->profile;
    job.holds.push_back(program.shared_from_this());
    if (run->arena) job.holds.push_back(reinterpret_cast<Buffer *>(run->arena)->shared_from_this());
    for (int32_t i = 0; i < program.binding_count(); ++i)
      job.holds.push_back(reinterpret_cast<Buffer *>(run->bindings[i])->shared_from_this());
    *ticket = on.give(std::move(job), [&](Job &given) {
      if (run->cancel && __atomic_load_n(run->cancel, __ATOMIC_RELAXED) != 0) return;
      program.run(on, *run, given.marks);
    });
  });
}

int wait(moe_queue *queue, moe_ticket ticket, int64_t nanoseconds, int32_t *done, moe_error *error) {
  return guarded(error, [&] {
    if (done) *done = 1;
    const bool ended = inner<Queue>(queue, "queue").wait(ticket, nanoseconds);
    if (done) *done = ended ? 1 : 0;
  });
}

void release(int32_t kind, void *object) {
  if (!object) return;
  switch (kind) {
    case MOE_KIND_DEVICE:
      return give_up<DeviceHandle>(object);
    case MOE_KIND_QUEUE:
      return give_up<Queue>(object);
    case MOE_KIND_BUFFER:
      return give_up<Buffer>(object);
    case MOE_KIND_WEIGHT:
      return give_up<Weight>(object);
    case MOE_KIND_PROGRAM:
      return give_up<Program>(object);
    default:
      return;
  }
}

constexpr moe_backend backend{
    MOE_ABI,       sizeof(moe_backend),
    MOE_CUDA_NAME, count,
    open,          describe,
    memory,        limits,
    queue,         allocate,
    host_address,  write,
    read,          weight_begin,
    weight_put,    weight_finish,
    scratch,       compile,
    run,           wait,
    release,
};

}  // namespace
}  // namespace moe::cuda

extern "C" __attribute__((visibility("default"))) const moe_backend *moe_backend_entry(void) {
  return &moe::cuda::backend;
}
