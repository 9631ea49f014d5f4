// Readers of JavaScript arguments: each returns the native value or throws INVALID_ARGUMENT with the argument's name,
// what would have been right, and what came. Reading a property or an element may run JavaScript (getters, proxies): a
// method reads all of those first, then checks that its object is still alive, then takes pointers into typed arrays.
#pragma once
#include <napi.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moe/backend.h"

namespace moe::addon {

// "a number 3.5", "a Float32Array of 12 elements": never runs JavaScript.
std::string describe(const Napi::Value &value);
[[noreturn]] void refuse(std::string_view argument, std::string_view expected, const Napi::Value &value);

double number(const Napi::Value &value, std::string_view argument);
int64_t integer(const Napi::Value &value, std::string_view argument, int64_t min, int64_t max);
bool boolean(const Napi::Value &value, std::string_view argument);
// At most `limit` bytes of UTF-8, without NUL.
std::string text(const Napi::Value &value, std::string_view argument, size_t limit = 4096);
Napi::Object object(const Napi::Value &value, std::string_view argument);

// Elements of an array of at most `limit`; may run JavaScript.
std::vector<napi_value> elements(const Napi::Value &value, std::string_view argument, uint32_t limit);
// A property, undefined where absent; may run JavaScript.
Napi::Value property(const Napi::Object &object, const char *name);

// Bytes of a typed array, valid until JavaScript runs again.
struct View {
  std::byte *data = nullptr;
  size_t bytes = 0, elements = 0;
  int32_t type = -1;  // napi_typedarray_type; 11 is Float16Array
};
bool is_typed_array(napi_env env, napi_value value);
// Refuses what is no typed array, detached, or backed by a SharedArrayBuffer.
View view(const Napi::Value &value, std::string_view argument);
// As above; the element type must be what holds `dtype` (f16 also takes Float16Array).
View view_of(const Napi::Value &value, std::string_view argument, int32_t dtype);
// As above with an exact number of elements.
View view_of(const Napi::Value &value, std::string_view argument, int32_t dtype, int64_t count);
// The typed array class that holds a dtype, and whether an array type fits it.
std::string_view array_name(int32_t dtype);
bool array_fits(int32_t type, int32_t dtype);

// Host memory of our own, 64-byte aligned.
class HostBlock {
 public:
  HostBlock() = default;
  explicit HostBlock(size_t bytes);
  static HostBlock copy(const View &view);
  std::byte *data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }
  template <typename T>
  T *as() const {
    return reinterpret_cast<T *>(data_.get());
  }

 private:
  struct Free {
    void operator()(std::byte *data) const;
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t bytes_ = 0;
};

// A typed array that a job writes when it is done. `store` looks again: the array may be detached or resized by then.
class HostTarget {
 public:
  HostTarget() = default;
  HostTarget(const Napi::Value &array, std::string argument, size_t bytes);
  void store(Napi::Env env, const void *from) const;  // INVALID_ARGUMENT where the array is not as it was

 private:
  Napi::Reference<Napi::Value> array_;
  std::string argument_;
  size_t bytes_ = 0;
};

}  // namespace moe::addon
