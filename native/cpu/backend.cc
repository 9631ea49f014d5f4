// The C ABI of the cpu backend. Everything runs on the calling thread (and the pool), so a ticket is done when it is
// handed out.
#include <cstring>
#include <map>
#include <memory>
#include <string>

#include "device.h"
#include "moe/error.h"
#include "program.h"

namespace moe::cpu {
namespace {

// Programs, buffers, weights and queues keep the device alive; nothing is in flight when `release` comes.
struct DeviceHandle {
  std::shared_ptr<Device> device;
};
struct Queue {
  std::shared_ptr<Device> device;
  moe_ticket given = 0;
  std::map<moe_ticket, moe_error> failed;

  template <typename Body>
  moe_ticket perform(const Body &body) {
    ++given;
    moe_error error{};
    if (guarded(&error, body) != MOE_OK) failed.emplace(given, error);
    return given;
  }
};

template <typename Object>
void need(const Object *object, std::string_view name) {
  if (!object) throw Error(MOE_INVALID_ARGUMENT, name, "an object", "none");
}

template <typename Inner, typename Outer>
Inner &inner(Outer *object, std::string_view name) {
  need(object, name);
  return *reinterpret_cast<Inner *>(object);
}
const std::shared_ptr<Device> &device_of(moe_device *device) { return inner<DeviceHandle>(device, "device").device; }

template <typename Outer, typename Inner>
void hand_out(std::unique_ptr<Inner> made, Outer **to) {
  *to = reinterpret_cast<Outer *>(made.release());
}

int count(int32_t *count, moe_error *) {
  *count = 1;
  return MOE_OK;
}

int open(int32_t index, const char *options, moe_device **device, moe_error *error) {
  return guarded(error, [&] {
    if (index != 0) throw Error(MOE_DEVICE_UNAVAILABLE, "index", "0: there is one cpu device", std::to_string(index));
    auto handle = std::make_unique<DeviceHandle>();
    handle->device = std::make_shared<Device>(options ? options : "");
    hand_out(std::move(handle), device);
  });
}

int describe(moe_device *device, char *json, size_t bytes, moe_error *error) {
  return guarded(error, [&] {
    const std::string text = device_of(device)->describe();
    if (bytes <= text.size()) {
      throw Error(MOE_INVALID_ARGUMENT, "bytes", "at least " + std::to_string(text.size() + 1), std::to_string(bytes));
    }
    std::memcpy(json, text.c_str(), text.size() + 1);
  });
}

int memory(moe_device *device, moe_memory *memory, moe_error *error) {
  return guarded(error, [&] { *memory = device_of(device)->memory(); });
}

int limits(moe_device *device, moe_limits *limits, moe_error *error) {
  return guarded(error, [&] { *limits = measure_limits(*device_of(device)); });
}

int queue(moe_device *device, int32_t, moe_queue **queue, moe_error *error) {
  return guarded(error, [&] {
    auto made = std::make_unique<Queue>();
    made->device = device_of(device);
    hand_out(std::move(made), queue);
  });
}

int allocate(moe_device *device, size_t bytes, moe_buffer **buffer, moe_error *error) {
  return guarded(error, [&] {
    auto made = std::make_unique<Buffer>();
    made->memory = Memory(device_of(device), bytes);
    hand_out(std::move(made), buffer);
  });
}

void *host_address(moe_buffer *buffer) { return buffer ? reinterpret_cast<Buffer *>(buffer)->memory.data() : nullptr; }

std::byte *place_in(moe_buffer *buffer, size_t offset, size_t bytes, std::string_view name) {
  const Memory &memory = inner<Buffer>(buffer, name).memory;
  if (offset > memory.bytes() || bytes > memory.bytes() - offset) {
    throw Error(MOE_INVALID_ARGUMENT, name, "bytes inside a buffer of " + std::to_string(memory.bytes()),
                std::to_string(offset) + " + " + std::to_string(bytes));
  }
  return memory.data() + offset;
}

int write(moe_queue *queue, moe_buffer *to, size_t offset, const void *from, size_t bytes, moe_ticket *ticket,
          moe_error *error) {
  return guarded(error, [&] {
    Queue &on = inner<Queue>(queue, "queue");
    std::byte *const place = place_in(to, offset, bytes, "to");
    if (bytes > 0) need(from, "from");
    *ticket = on.perform([&] {
      if (bytes > 0) std::memcpy(place, from, bytes);
    });
  });
}

int read(moe_queue *queue, moe_buffer *from, size_t offset, void *to, size_t bytes, moe_ticket *ticket,
         moe_error *error) {
  return guarded(error, [&] {
    Queue &on = inner<Queue>(queue, "queue");
    const std::byte *const place = place_in(from, offset, bytes, "from");
    if (bytes > 0) need(to, "to");
    *ticket = on.perform([&] {
      if (bytes > 0) std::memcpy(to, place, bytes);
    });
  });
}

int weight_begin(moe_device *device, const moe_weight_spec *spec, moe_weight **weight, moe_error *error) {
  return guarded(error, [&] {
    need(spec, "spec");
    hand_out(std::make_unique<Weight>(Weight{Bank(device_of(device), *spec)}), weight);
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
  return guarded(error, [&] { *bytes = inner<Weight>(weight, "weight").bank.finish(); });
}

int scratch(moe_device *device, const moe_graph *graph, int64_t *per_node, moe_error *error) {
  return guarded(error, [&] {
    need(graph, "graph");
    const Program program(device_of(device), *graph);
    for (const NodePlan &node : program.nodes()) *per_node++ = node.scratch;
  });
}

int compile(moe_device *device, const moe_graph *graph, moe_program **program, moe_error *error) {
  return guarded(error, [&] {
    need(graph, "graph");
    hand_out(std::make_unique<Program>(device_of(device), *graph), program);
  });
}

int run(moe_queue *queue, const moe_run *run, moe_ticket *ticket, moe_error *error) {
  return guarded(error, [&] {
    Queue &on = inner<Queue>(queue, "queue");
    need(run, "run");
    const Program &program = inner<Program>(run->program, "program");
    *ticket = on.perform([&] { program.run(*run); });
  });
}

// The oldest failure up to `ticket` surfaces, once: a caller that waits only for its last ticket sees it.
int wait(moe_queue *queue, moe_ticket ticket, int64_t, int32_t *done, moe_error *error) {
  return guarded(error, [&] {
    Queue &on = inner<Queue>(queue, "queue");
    if (ticket > on.given)
      throw Error(MOE_INVALID_ARGUMENT, "ticket", "a ticket of this queue", std::to_string(ticket));
    if (done) *done = 1;
    const auto first = on.failed.begin();
    if (first == on.failed.end() || first->first > ticket) return;
    const Error failure(first->second);
    on.failed.erase(first);
    throw failure;
  });
}

template <typename Inner>
void destroy(void *object) {
  const std::unique_ptr<Inner> last(static_cast<Inner *>(object));
}

void release(int32_t kind, void *object) {
  switch (kind) {
    case MOE_KIND_DEVICE:
      return destroy<DeviceHandle>(object);
    case MOE_KIND_QUEUE:
      return destroy<Queue>(object);
    case MOE_KIND_BUFFER:
      return destroy<Buffer>(object);
    case MOE_KIND_WEIGHT:
      return destroy<Weight>(object);
    case MOE_KIND_PROGRAM:
      return destroy<Program>(object);
    default:
      return;
  }
}

constexpr moe_backend backend{
    MOE_ABI,      sizeof(moe_backend),
    "cpu",        count,
    open,         describe,
    memory,       limits,
    queue,        allocate,
    host_address, write,
    read,         weight_begin,
    weight_put,   weight_finish,
    scratch,      compile,
    run,          wait,
    release,
};

}  // namespace
}  // namespace moe::cpu

extern "C" const moe_backend *moe_backend_cpu(void);
extern "C" const moe_backend *moe_backend_cpu(void) { return &moe::cpu::backend; }
