// NativeQueue: copies and runs in order, on a dispatcher thread (promises) or, once that is idle, on the caller
// (…Sync). States: live, disposed. dispose() lets queued work finish first.
#pragma once
#include "addon/resources.h"
#include "addon/wrapped.h"

namespace moe::addon {

class Queue final : public Wrapped<Queue>, public Child {
 public:
  static constexpr ClassId id = ClassId::queue;
  static constexpr const char *class_name = "NativeQueue";
  static std::vector<napi_property_descriptor> members();

  explicit Queue(QueuePointer resource);
  ~Queue() override { Queue::drop(); }
  void drop() noexcept override;
  const QueuePointer &alive(std::string_view argument) const;

 private:
  napi_value write(const Napi::CallbackInfo &info);
  napi_value read(const Napi::CallbackInfo &info);
  napi_value write_sync(const Napi::CallbackInfo &info);
  napi_value read_sync(const Napi::CallbackInfo &info);
  napi_value dispose(const Napi::CallbackInfo &info);

  QueuePointer resource_;
};

}  // namespace moe::addon
