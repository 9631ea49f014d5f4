// The glue of a native class: a tagged JavaScript object that owns a C++ object. Every method goes through `call`,
// which checks the receiver's tag and turns exceptions into JavaScript's. Only the addon makes such objects; their
// constructors refuse.
//
// A class T derives from Wrapped<T> and has: `id` (its place in Environment), `class_name`, and
// `static std::vector<napi_property_descriptor> members()`. Destructors run as finalizers and may not touch JavaScript.
#pragma once
#include <napi.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/errors.h"

namespace moe::addon {

template <typename T>
class Wrapped {
 public:
  Wrapped() = default;
  Wrapped(const Wrapped &) = delete;
  Wrapped &operator=(const Wrapped &) = delete;

  // Defines the class in an environment; once, before make.
  static void define(Napi::Env env) {
    const std::vector<napi_property_descriptor> members = T::members();
    napi_value constructor = nullptr;
    napi_check(env, napi_define_class(env, T::class_name, NAPI_AUTO_LENGTH, construct, nullptr, members.size(),
                                      members.data(), &constructor));
    Environment::of(env).classes[static_cast<size_t>(T::id)] = Napi::Persistent(Napi::Function(env, constructor));
  }

  static Napi::Object make(Napi::Env env, std::unique_ptr<T> native) {
    Environment &environment = Environment::of(env);
    environment.making = native.get();
    napi_value object = nullptr;
    const napi_status status =
        napi_new_instance(env, environment.classes[static_cast<size_t>(T::id)].Value(), 0, nullptr, &object);
    environment.making = nullptr;
    napi_check(env, status);
    static_cast<void>(native.release());  // owned by the object from here on
    return Napi::Object(env, object);
  }

  // The native object behind a value, null where it is none of this class.
  static T *find(napi_env env, napi_value value) {
    napi_valuetype type = napi_undefined;
    bool tagged = false;
    void *native = nullptr;
    if (napi_typeof(env, value, &type) != napi_ok || type != napi_object)
      return nullptr;  // others would be coerced, or throw
    if (napi_check_object_type_tag(env, value, &tag(), &tagged) != napi_ok || !tagged) return nullptr;
    return napi_unwrap(env, value, &native) == napi_ok ? static_cast<T *>(native) : nullptr;
  }
  static T &from(napi_env env, napi_value value, std::string_view argument) {
    if (T *native = find(env, value)) return *native;
    throw Error(MOE_INVALID_ARGUMENT, argument, std::string("a native ") + T::class_name,
                describe(Napi::Value(env, value)));
  }

 protected:
  template <auto body>
  static napi_property_descriptor method(const char *name) {
    return {name, nullptr, call<body>, nullptr, nullptr, nullptr, napi_default_method, nullptr};
  }
  // A method that returns a promise: its errors reject.
  template <auto body>
  static napi_property_descriptor promise(const char *name) {
    return {name, nullptr, call_promise<body>, nullptr, nullptr, nullptr, napi_default_method, nullptr};
  }
  template <auto body>
  static napi_property_descriptor getter(const char *name) {
    return {name, nullptr, nullptr, call<body>, nullptr, nullptr, napi_enumerable, nullptr};
  }

 private:
  // An address in it tells two loaded copies of the addon apart.
  static const napi_type_tag &tag() {
    static const char anchor = 0;
    static const napi_type_tag value{reinterpret_cast<uintptr_t>(&anchor), static_cast<uint64_t>(T::id)};
    return value;
  }

  template <auto body>
  static napi_value call(napi_env env, napi_callback_info callback) noexcept {
    return bridge(env, [&]() -> napi_value {
      const Napi::CallbackInfo info(env, callback);
      T &self = from(env, info.This(), "this");
      return (self.*body)(info);
    });
  }

  template <auto body>
  static napi_value call_promise(napi_env env, napi_callback_info callback) noexcept {
    return bridge(env, [&]() -> napi_value {
      const Napi::CallbackInfo info(env, callback);
      return rejecting(env, [&]() -> napi_value { return (from(env, info.This(), "this").*body)(info); });
    });
  }

  static napi_value construct(napi_env env, napi_callback_info callback) noexcept {
    return bridge(env, [&]() -> napi_value {
      const Napi::CallbackInfo info(env, callback);
      const void *native = std::exchange(Environment::of(env).making, nullptr);
      if (native == nullptr) {
        throw Error(MOE_INVALID_ARGUMENT, T::class_name, "an object that a device or the addon made",
                    "a call of its constructor");
      }
      const napi_value object = info.This();
      napi_check(env, napi_type_tag_object(env, object, &tag()));
      napi_check(env, napi_wrap(env, object, const_cast<void *>(native), finalize, nullptr, nullptr));
      return object;
    });
  }

  static void finalize(napi_env, void *native, void *) { const std::unique_ptr<T> owned(static_cast<T *>(native)); }
};

}  // namespace moe::addon
