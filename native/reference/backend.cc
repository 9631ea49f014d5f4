// The C ABI of the reference backend: argument checks and handles; the work is in device, queue, program and weight.
#include <cstring>

#include "reference.h"

namespace moe::reference {

namespace {

void expect_pointer(const void *pointer, std::string_view name) {
  if (pointer == nullptr) throw Error(MOE_INVALID_ARGUMENT, name, "an object", "NULL");
}

template <typename Object>
void hand_out(std::shared_ptr<Object> made, Object **to) {
  *to = made.get();
  made->creator = std::move(made);
}

// A copy of what `creator` refers to dies with the last job, not inside the object itself.
template <typename Object>
void give_up(void *object) {
  const std::shared_ptr<Object> last = std::move(static_cast<Object *>(object)->creator);
}

int count(int32_t *count, moe_error *error) {
  return guarded(error, [&] { *count = 1; });
}

int64_t parse_limit(const std::string &value) {
  const Error refused(MOE_INVALID_ARGUMENT, "memoryLimit", "a count of bytes", value);
  if (value.empty() || value.size() > 18) throw refused;
  for (const char digit : value) {
    if (digit < '0' || digit > '9') throw refused;
  }
  return std::stoll(value);
}

void set_option(moe_device &device, const std::string &line) {
  const size_t equals = line.find('=');
  const std::string key = line.substr(0, equals), value = equals == std::string::npos ? "" : line.substr(equals + 1);
  if (key == "foreign") {
    if (value != "0" && value != "1") throw Error(MOE_INVALID_ARGUMENT, key, "0 or 1", value);
    device.foreign = value == "1";
  } else if (key == "memoryLimit") {
    device.memory.limit = parse_limit(value);
  } else {
    throw Error(MOE_INVALID_ARGUMENT, key, "one of foreign, memoryLimit", key);
  }
}

int open(int32_t index, const char *options, moe_device **device, moe_error *error) {
  return guarded(error, [&] {
    expect(index == 0, "index", "0: there is one reference device", index);
    auto made = std::make_shared<moe_device>();
    const std::string text = options == nullptr ? "" : options;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      if (end > begin) set_option(*made, text.substr(begin, end - begin));
      begin = end + 1;
    }
    hand_out(std::move(made), device);
  });
}

int describe(moe_device *device, char *json, size_t bytes, moe_error *error) {
  return guarded(error, [&] {
    expect_pointer(device, "device");
    const std::string text = std::string(R"({"name":"reference","foreign":)") + (device->foreign ? "true" : "false") +
                             R"(,"description":"the executable specification: scalar loops over doubles"})";
    expect(bytes > text.size(), "bytes", "at least " + std::to_string(text.size() + 1), static_cast<int64_t>(bytes));
    std::memcpy(json, text.c_str(), text.size() + 1);
  });
}

int memory(moe_device *device, moe_memory *memory, moe_error *error) {
  return guarded(error, [&] {
    expect_pointer(device, "device");
    const std::lock_guard lock(device->mutex);
    *memory = device->memory;
  });
}

int limits(moe_device *, moe_limits *limits, moe_error *error) {
  return guarded(error, [&] { *limits = {}; });
}

int queue(moe_device *device, int32_t, moe_queue **queue, moe_error *error) {
  return guarded(error, [&] {
    expect_pointer(device, "device");
    auto made = std::make_shared<moe_queue>();
    made->device = device->shared_from_this();
    hand_out(std::move(made), queue);
  });
}

int allocate(moe_device *device, size_t bytes, moe_buffer **buffer, moe_error *error) {
  return guarded(error, [&] {
    expect_pointer(device, "device");
    hand_out(std::make_shared<moe_buffer>(device->shared_from_this(), bytes), buffer);
  });
}

void *host_address(moe_buffer *buffer) {
  return buffer == nullptr || buffer->device->foreign ? nullptr : buffer->data.get();
}

Transfer transfer(moe_buffer *buffer, size_t offset, size_t bytes, const void *from, void *to) {
  expect_pointer(buffer, "buffer");
  if (bytes > 0) expect_pointer(from == nullptr ? to : from, "data");
  if (offset > buffer->bytes || bytes > buffer->bytes - offset) {
    throw Error(MOE_INVALID_ARGUMENT, "offset", "a range within " + std::to_string(buffer->bytes) + " bytes",
                std::to_string(offset) + " + " + std::to_string(bytes));
  }
  return {buffer->shared_from_this(), offset, bytes, from, to};
}

int write(moe_queue *queue, moe_buffer *to, size_t offset, const void *from, size_t bytes, moe_ticket *ticket,
          moe_error *error) {
  return guarded(error, [&] {
    expect_pointer(queue, "queue");
    *ticket = queue->give(transfer(to, offset, bytes, from, nullptr));
  });
}

int read(moe_queue *queue, moe_buffer *from, size_t offset, void *to, size_t bytes, moe_ticket *ticket,
         moe_error *error) {
  return guarded(error, [&] {
    expect_pointer(queue, "queue");
    *ticket = queue->give(transfer(from, offset, bytes, nullptr, to));
  });
}

int weight_begin(moe_device *device, const moe_weight_spec *spec, moe_weight **weight, moe_error *error) {
  return guarded(error, [&] {
    expect_pointer(device, "device");
    expect_pointer(spec, "spec");
    hand_out(std::make_shared<moe_weight>(device->shared_from_this(), *spec), weight);
  });
}

int weight_put(moe_weight *weight, int32_t part, int32_t slot, int64_t row, int64_t rows, const moe_plain *plain,
               moe_error *error) {
  return guarded(error, [&] {
    expect_pointer(weight, "weight");
    expect_pointer(plain, "plain");
    weight->put(part, slot, row, rows, *plain);
  });
}

int weight_finish(moe_weight *weight, size_t *bytes, moe_error *error) {
  return guarded(error, [&] {
    expect_pointer(weight, "weight");
    weight->finish();
    *bytes = static_cast<size_t>(weight->bytes);
  });
}

int scratch(moe_device *device, const moe_graph *graph, int64_t *per_node, moe_error *error) {
  return guarded(error, [&] {
    expect_pointer(device, "device");
    expect_pointer(graph, "graph");
    const auto program = std::make_shared<moe_program>(device->shared_from_this(), *graph);
    for (size_t i = 0; i < program->nodes.size(); ++i) per_node[i] = program->scratch[i];
  });
}

int compile(moe_device *device, const moe_graph *graph, moe_program **program, moe_error *error) {
  return guarded(error, [&] {
    expect_pointer(device, "device");
    expect_pointer(graph, "graph");
    hand_out(std::make_shared<moe_program>(device->shared_from_this(), *graph), program);
  });
}

int run(moe_queue *queue, const moe_run *run, moe_ticket *ticket, moe_error *error) {
  return guarded(error, [&] {
    expect_pointer(queue, "queue");
    expect_pointer(run, "run");
    expect_pointer(run->program, "program");
    expect_pointer(run->arena, "arena");
    const moe_program &program = *run->program;
    Run job{run->program->shared_from_this(), run->arena->shared_from_this(), {}, {}, run->cancel, run->profile};
    for (size_t i = 0; i < program.max_sizes.size(); ++i) {
      const int64_t size = run->sizes[i], most = program.max_sizes[i];
      expect(size >= 0 && size <= most, "sizes", "a size from 0 to " + std::to_string(most), size);
      job.sizes.push_back(size);
    }
    for (int32_t i = 0; i < program.binding_count; ++i) {
      expect_pointer(run->bindings[i], "bindings");
      job.bindings.push_back(run->bindings[i]->shared_from_this());
    }
    for (size_t i = 0; i < program.nodes.size(); ++i) {  // every operand fits its buffer and agrees with the others
      const Node node = program.bind(i, job.sizes.data(), run->arena, run->bindings);
      operation(node.op).plan(node);
    }
    *ticket = queue->give(std::move(job));
  });
}

int wait(moe_queue *queue, moe_ticket ticket, int64_t, int32_t *done, moe_error *error) {
  return guarded(error, [&] {
    expect_pointer(queue, "queue");
    *done = 1;
    queue->wait(ticket);
  });
}

void release(int32_t kind, void *object) {
  if (object == nullptr) return;
  switch (kind) {
    case MOE_KIND_DEVICE:
      give_up<moe_device>(object);
      break;
    case MOE_KIND_QUEUE:
      give_up<moe_queue>(object);
      break;
    case MOE_KIND_BUFFER:
      give_up<moe_buffer>(object);
      break;
    case MOE_KIND_WEIGHT:
      give_up<moe_weight>(object);
      break;
    case MOE_KIND_PROGRAM:
      give_up<moe_program>(object);
      break;
    default:
      break;
  }
}

constexpr moe_backend backend{
    MOE_ABI,      sizeof(moe_backend),
    "reference",  count,
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

}  // namespace moe::reference

extern "C" const moe_backend *moe_backend_reference(void) { return &moe::reference::backend; }
