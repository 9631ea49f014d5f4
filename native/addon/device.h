// NativeDevice: an open device. States: live, disposed. dispose() lets go of everything that was made on it (buffers,
// weights, queues, graphs, programs); what runs in flight use is freed when the last of them is done.
#pragma once
#include "addon/resources.h"
#include "addon/wrapped.h"

namespace moe::addon {

class Device final : public Wrapped<Device> {
 public:
  static constexpr ClassId id = ClassId::device;
  static constexpr const char *class_name = "NativeDevice";
  static std::vector<napi_property_descriptor> members();

  explicit Device(DevicePointer resource) : resource_(std::move(resource)) {}

 private:
  const DevicePointer &alive() const;
  napi_value backend(const Napi::CallbackInfo &info);
  napi_value describe(const Napi::CallbackInfo &info);
  napi_value memory(const Napi::CallbackInfo &info);
  napi_value limits(const Napi::CallbackInfo &info);
  napi_value create_queue(const Napi::CallbackInfo &info);
  napi_value allocate(const Napi::CallbackInfo &info);
  napi_value load_weight(const Napi::CallbackInfo &info);
  napi_value create_graph(const Napi::CallbackInfo &info);
  napi_value dispose(const Napi::CallbackInfo &info);

  DevicePointer resource_;
};

// addon.backends() and addon.openDevice(backend, index, options).
napi_value list_backends(const Napi::CallbackInfo &info);
napi_value open_device(const Napi::CallbackInfo &info);

}  // namespace moe::addon
