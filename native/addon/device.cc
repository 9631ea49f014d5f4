#include "addon/device.h"

#include <dlfcn.h>

#include "addon/buffer.h"
#include "addon/graph.h"
#include "addon/queue.h"
#include "addon/weight.h"
#include "core/error.h"
#include "core/registry.h"

namespace moe::addon {

namespace {

constexpr int64_t max_buffer = int64_t{1} << 46;
constexpr size_t max_json = size_t{1} << 22;

// Shared by all environments and never destroyed: it holds no JavaScript, and threads of backends outlive every handle.
const Registry &registry() {
  static const Registry *const instance = [] {
    Dl_info where{};
    std::string directory;
    if (dladdr(reinterpret_cast<const void *>(&list_backends), &where) != 0 && where.dli_fname != nullptr) {
      directory = where.dli_fname;
      const size_t slash = directory.rfind('/');
      directory = slash == std::string::npos ? "." : directory.substr(0, slash);
    }
    return std::make_unique<Registry>(directory).release();
  }();
  return *instance;
}

class LimitsJob final : public PromiseJob {
 public:
  LimitsJob(Napi::Env env, DevicePointer device) : PromiseJob(env), device_(std::move(device)) {}
  void execute() override {
    check([&](moe_error *error) { return device_->backend.limits(device_->handle, &limits_, error); });
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("readBytesPerSecond", limits_.read_bytes_per_second);
    object.Set("f32OperationsPerSecond", limits_.f32_operations_per_second);
    object.Set("int8OperationsPerSecond", limits_.int8_operations_per_second);
    object.Set("bf16OperationsPerSecond", limits_.bf16_operations_per_second);
    return object;
  }

 private:
  DevicePointer device_;
  moe_limits limits_{};
};

}  // namespace

napi_value list_backends(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  Napi::Array list = Napi::Array::New(env);
  for (const Backend &backend : registry().backends()) {
    const Availability found = backend.functions ? availability(backend) : Availability{0, backend.error};
    const std::string_view code = found.count > 0 ? std::string_view{} : code_name(found.error.code);
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", backend.name);
    entry.Set("count", found.count);
    entry.Set("code", Napi::String::New(env, code.data(), code.size()));
    entry.Set("argument", found.error.argument);
    entry.Set("expected", found.error.expected);
    entry.Set("received", found.error.received);
    list.Set(list.Length(), entry);
  }
  return list;
}

napi_value open_device(const Napi::CallbackInfo &info) {
  const std::string name = text(info[0], "backend", 64);
  const auto index = static_cast<int32_t>(integer(info[1], "index", 0, 4095));
  const std::string options = text(info[2], "options", 65536);
  const moe_backend &backend = registry().find(name);
  moe_device *device = nullptr;
  check([&](moe_error *error) { return backend.open(index, options.c_str(), &device, error); });
  return Device::make(info.Env(), std::make_unique<Device>(std::make_shared<DeviceResource>(backend, device)));
}

std::vector<napi_property_descriptor> Device::members() {
  return {getter<&Device::backend>("backend"),
          method<&Device::describe>("describe"),
          method<&Device::memory>("memory"),
          promise<&Device::limits>("limits"),
          method<&Device::create_queue>("createQueue"),
          method<&Device::allocate>("allocate"),
          promise<&Device::load_weight>("loadWeight"),
          method<&Device::create_graph>("createGraph"),
          method<&Device::dispose>("dispose")};
}

const DevicePointer &Device::alive() const {
  if (!resource_) refuse_disposed("device");
  return resource_;
}

napi_value Device::backend(const Napi::CallbackInfo &info) {
  return Napi::String::New(info.Env(), alive()->backend.name);
}

napi_value Device::describe(const Napi::CallbackInfo &info) {
  const DeviceResource &device = *alive();
  for (std::string json(size_t{1} << 14, '\0');; json.resize(json.size() * 4)) {
    moe_error error{};
    if (device.backend.describe(device.handle, json.data(), json.size(), &error) == MOE_OK)
      return Napi::String::New(info.Env(), json.c_str());
    if (error.code != MOE_INVALID_ARGUMENT || json.size() >= max_json) throw Error(error);
  }
}

napi_value Device::memory(const Napi::CallbackInfo &info) {
  const DeviceResource &device = *alive();
  moe_memory memory{};
  check([&](moe_error *error) { return device.backend.memory(device.handle, &memory, error); });
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("held", static_cast<double>(memory.held));
  object.Set("peak", static_cast<double>(memory.peak));
  object.Set("limit", static_cast<double>(memory.limit));
  return object;
}

napi_value Device::limits(const Napi::CallbackInfo &info) {
  auto job = std::make_unique<LimitsJob>(info.Env(), alive());
  const Napi::Promise promise = job->promise();
  Environment::of(info.Env()).loads.push(info.Env(), std::move(job));
  return promise;
}

napi_value Device::create_queue(const Napi::CallbackInfo &info) {
  const auto priority = static_cast<int32_t>(integer(info[0], "priority", -128, 127));
  return Queue::make(info.Env(), std::make_unique<Queue>(std::make_shared<QueueResource>(
                                     Environment::of(info.Env()).loop, alive(), priority)));
}

napi_value Device::allocate(const Napi::CallbackInfo &info) {
  const int64_t bytes = integer(info[0], "bytes", 0, max_buffer);
  return Buffer::make(info.Env(),
                      std::make_unique<Buffer>(std::make_shared<BufferResource>(info.Env(), alive(), bytes)));
}

napi_value Device::load_weight(const Napi::CallbackInfo &info) {
  auto load = read_weight_load(info);  // runs JavaScript, which may dispose
  return start_weight_load(info.Env(), alive(), std::move(load));
}

napi_value Device::create_graph(const Napi::CallbackInfo &info) {
  return GraphObject::make(info.Env(), std::make_unique<GraphObject>(alive()));
}

napi_value Device::dispose(const Napi::CallbackInfo &info) {
  if (resource_) {
    const std::vector<Child *> children(resource_->children.begin(), resource_->children.end());
    resource_->disposed = true;
    for (Child *child : children) child->drop();
    resource_.reset();
  }
  return info.Env().Undefined();
}

}  // namespace moe::addon
