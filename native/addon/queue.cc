#include "addon/queue.h"

#include "addon/buffer.h"

namespace moe::addon {

namespace {

// The operands of a copy between a buffer and a typed array.
struct Copy {
  Copy(const QueueResource &queue, const Napi::CallbackInfo &info, std::string_view array) {
    buffer = Buffer::from(info.Env(), info[0], "buffer").alive("buffer");
    if (buffer->device != queue.device)
      throw Error(MOE_INVALID_ARGUMENT, "buffer", "a buffer of the queue's device", "one of another device");
    const int64_t start = integer(info[1], "byteOffset", 0, buffer->bytes);
    memory = view(info[2], array);
    if (static_cast<int64_t>(memory.bytes) > buffer->bytes - start) {
      throw Error(MOE_INVALID_ARGUMENT, array,
                  "at most " + std::to_string(buffer->bytes - start) + " bytes at offset " + std::to_string(start),
                  std::to_string(memory.bytes) + " bytes");
    }
    offset = static_cast<size_t>(start);
  }
  BufferPointer buffer;
  size_t offset = 0;
  View memory;
};

void write_bytes(const QueueResource &queue, const BufferResource &buffer, size_t offset, const std::byte *from,
                 size_t bytes) {
  if (bytes == 0) return;
  moe_ticket ticket = 0;
  check([&](moe_error *error) {
    return queue.device->backend.write(queue.handle, buffer.handle, offset, from, bytes, &ticket, error);
  });
  queue.wait(ticket);
}

void read_bytes(const QueueResource &queue, const BufferResource &buffer, size_t offset, std::byte *to, size_t bytes) {
  if (bytes == 0) return;
  moe_ticket ticket = 0;
  check([&](moe_error *error) {
    return queue.device->backend.read(queue.handle, buffer.handle, offset, to, bytes, &ticket, error);
  });
  queue.wait(ticket);
}

class WriteJob final : public PromiseJob {
 public:
  WriteJob(Napi::Env env, QueuePointer queue, const Copy &copy)
      : PromiseJob(env),
        queue_(std::move(queue)),
        buffer_(copy.buffer),
        offset_(copy.offset),
        block_(HostBlock::copy(copy.memory)) {}
  void execute() override { write_bytes(*queue_, *buffer_, offset_, block_.data(), block_.bytes()); }

 private:
  QueuePointer queue_;
  BufferPointer buffer_;
  size_t offset_;
  HostBlock block_;
};

class ReadJob final : public PromiseJob {
 public:
  ReadJob(Napi::Env env, QueuePointer queue, const Copy &copy, const Napi::Value &to)
      : PromiseJob(env),
        queue_(std::move(queue)),
        buffer_(copy.buffer),
        offset_(copy.offset),
        block_(copy.memory.bytes),
        target_(to, "to", copy.memory.bytes) {}
  void execute() override { read_bytes(*queue_, *buffer_, offset_, block_.data(), block_.bytes()); }

 protected:
  Napi::Value result(Napi::Env env) override {
    target_.store(env, block_.data());
    return env.Undefined();
  }

 private:
  QueuePointer queue_;
  BufferPointer buffer_;
  size_t offset_;
  HostBlock block_;
  HostTarget target_;
};

}  // namespace

std::vector<napi_property_descriptor> Queue::members() {
  return {promise<&Queue::write>("write"), promise<&Queue::read>("read"), method<&Queue::write_sync>("writeSync"),
          method<&Queue::read_sync>("readSync"), method<&Queue::dispose>("dispose")};
}

Queue::Queue(QueuePointer resource) : resource_(std::move(resource)) { resource_->device->children.insert(this); }

void Queue::drop() noexcept {
  if (!resource_) return;
  resource_->device->children.erase(this);
  resource_.reset();
}

const QueuePointer &Queue::alive(std::string_view argument) const {
  if (!resource_) refuse_disposed(argument);
  return resource_;
}

napi_value Queue::write(const Napi::CallbackInfo &info) {
  const QueuePointer &queue = alive("queue");
  auto job = std::make_unique<WriteJob>(info.Env(), queue, Copy(*queue, info, "from"));
  const Napi::Promise promise = job->promise();
  queue->worker.push(info.Env(), std::move(job));
  return promise;
}

napi_value Queue::read(const Napi::CallbackInfo &info) {
  const QueuePointer &queue = alive("queue");
  auto job = std::make_unique<ReadJob>(info.Env(), queue, Copy(*queue, info, "to"), info[2]);
  const Napi::Promise promise = job->promise();
  queue->worker.push(info.Env(), std::move(job));
  return promise;
}

napi_value Queue::write_sync(const Napi::CallbackInfo &info) {
  const QueuePointer queue = alive("queue");
  const Copy copy(*queue, info, "from");
  queue->worker.wait_idle();
  write_bytes(*queue, *copy.buffer, copy.offset, copy.memory.data, copy.memory.bytes);
  return info.Env().Undefined();
}

napi_value Queue::read_sync(const Napi::CallbackInfo &info) {
  const QueuePointer queue = alive("queue");
  const Copy copy(*queue, info, "to");
  queue->worker.wait_idle();
  read_bytes(*queue, *copy.buffer, copy.offset, copy.memory.data, copy.memory.bytes);
  return info.Env().Undefined();
}

napi_value Queue::dispose(const Napi::CallbackInfo &info) {
  drop();
  return info.Env().Undefined();
}

}  // namespace moe::addon
