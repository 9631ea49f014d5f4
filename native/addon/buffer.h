// NativeBuffer: memory of a device. States: live, disposed. Runs and copies in flight keep the memory past dispose().
#pragma once
#include "addon/resources.h"
#include "addon/wrapped.h"

namespace moe::addon {

class Buffer final : public Wrapped<Buffer>, public Child {
 public:
  static constexpr ClassId id = ClassId::buffer;
  static constexpr const char *class_name = "NativeBuffer";
  static std::vector<napi_property_descriptor> members();

  explicit Buffer(BufferPointer resource);
  ~Buffer() override { Buffer::drop(); }
  void drop() noexcept override;
  // Throws DISPOSED naming `argument`.
  const BufferPointer &alive(std::string_view argument) const;

 private:
  napi_value bytes(const Napi::CallbackInfo &info);
  napi_value dispose(const Napi::CallbackInfo &info);

  BufferPointer resource_;
  const int64_t bytes_;
};

[[noreturn]] void refuse_disposed(std::string_view argument);

}  // namespace moe::addon
