// NativeCancel: a word of native memory that runs and loads look at. One may serve many; it cannot be taken back.
#pragma once
#include <atomic>
#include <memory>

#include "addon/wrapped.h"

namespace moe::addon {

struct CancelWord {
  int32_t word = 0;
  void set() noexcept { std::atomic_ref(word).store(1, std::memory_order_relaxed); }
  bool is_set() noexcept { return std::atomic_ref(word).load(std::memory_order_relaxed) != 0; }
};
using CancelPointer = std::shared_ptr<CancelWord>;

class Cancel final : public Wrapped<Cancel> {
 public:
  static constexpr ClassId id = ClassId::cancel;
  static constexpr const char *class_name = "NativeCancel";
  static std::vector<napi_property_descriptor> members() { return {method<&Cancel::cancel>("cancel")}; }

  // Null where the argument is undefined.
  static CancelPointer optional(const Napi::Value &value, std::string_view argument) {
    return value.IsUndefined() ? nullptr : from(value.Env(), value, argument).word_;
  }

 private:
  napi_value cancel(const Napi::CallbackInfo &info) {
    word_->set();
    return info.Env().Undefined();
  }

  CancelPointer word_ = std::make_shared<CancelWord>();
};

}  // namespace moe::addon
