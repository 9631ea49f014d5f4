#include "addon/arguments.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "addon/errors.h"
#include "moe/checked.h"
#include "moe/dtype.h"

namespace moe::addon {

namespace {

constexpr int32_t float16_array = 11;  // napi_float16_array, which older headers and runtimes lack
constexpr std::array<std::string_view, 12> array_names{
    "Int8Array",   "Uint8Array",   "Uint8ClampedArray", "Int16Array",    "Uint16Array",    "Int32Array",
    "Uint32Array", "Float32Array", "Float64Array",      "BigInt64Array", "BigUint64Array", "Float16Array"};
constexpr std::array<size_t, 12> element_bytes{1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 2};

std::string print(double value) {
  char words[32];
  std::snprintf(words, sizeof words, "%.17g", value);
  double back;
  for (int digits = 1; digits < 17; digits++) {
    char shorter[32];
    std::snprintf(shorter, sizeof shorter, "%.*g", digits, value);
    if (std::sscanf(shorter, "%lf", &back) == 1 && back == value) return shorter;
  }
  return words;
}

std::string describe_typed_array(napi_env env, napi_value value) {
  napi_typedarray_type type{};
  size_t length = 0;
  napi_value buffer = nullptr;
  if (napi_get_typedarray_info(env, value, &type, &length, nullptr, &buffer, nullptr) != napi_ok)
    return "a typed array of another kind";
  const auto index = static_cast<size_t>(type);
  const bool vowel = index == napi_int8_array || index == napi_int16_array || index == napi_int32_array;
  std::string words = vowel ? "an " : "a ";
  words += index < array_names.size() ? array_names[index] : "typed array";
  words += " of " + std::to_string(length) + " elements";
  bool plain = false, detached = false;
  napi_is_arraybuffer(env, buffer, &plain);
  if (!plain) return words + " over a SharedArrayBuffer";
  napi_is_detached_arraybuffer(env, buffer, &detached);
  return detached ? words + ", detached" : words;
}

}  // namespace

std::string describe(const Napi::Value &value) {
  const napi_env env = value.Env();
  bool yes = false;
  switch (value.IsEmpty() ? napi_undefined : value.Type()) {
    case napi_undefined:
      return "undefined";
    case napi_null:
      return "null";
    case napi_boolean:
      return value.As<Napi::Boolean>().Value() ? "true" : "false";
    case napi_number:
      return "a number " + print(value.As<Napi::Number>().DoubleValue());
    case napi_string: {
      char words[100];
      size_t length = 0;
      napi_get_value_string_utf8(env, value, words, sizeof words, &length);
      return "a string '" + std::string(words, length) + (length + 4 >= sizeof words ? "…'" : "'");
    }
    case napi_symbol:
      return "a symbol";
    case napi_function:
      return "a function";
    case napi_bigint:
      return "a bigint";
    case napi_external:
      return "an external value";
    case napi_object:
      break;
  }
  if (napi_is_typedarray(env, value, &yes) == napi_ok && yes) return describe_typed_array(env, value);
  if (napi_is_array(env, value, &yes) == napi_ok && yes) return "an array";
  if (napi_is_arraybuffer(env, value, &yes) == napi_ok && yes) return "an ArrayBuffer";
  if (napi_is_dataview(env, value, &yes) == napi_ok && yes) return "a DataView";
  return "an object";
}

void refuse(std::string_view argument, std::string_view expected, const Napi::Value &value) {
  throw Error(MOE_INVALID_ARGUMENT, argument, expected, describe(value));
}

double number(const Napi::Value &value, std::string_view argument) {
  double result = 0;
  if (napi_get_value_double(value.Env(), value, &result) != napi_ok) refuse(argument, "a number", value);
  return result;
}

int64_t integer(const Napi::Value &value, std::string_view argument, int64_t min, int64_t max) {
  double result = 0;
  const bool is_number = napi_get_value_double(value.Env(), value, &result) == napi_ok;
  constexpr double exact = 9007199254740992.0;  // 2^53
  if (!is_number || !(result >= -exact && result <= exact) || std::trunc(result) != result ||
      static_cast<int64_t>(result) < min || static_cast<int64_t>(result) > max) {
    refuse(argument, "an integer from " + std::to_string(min) + " to " + std::to_string(max), value);
  }
  return static_cast<int64_t>(result);
}

bool boolean(const Napi::Value &value, std::string_view argument) {
  bool result = false;
  if (napi_get_value_bool(value.Env(), value, &result) != napi_ok) refuse(argument, "a boolean", value);
  return result;
}

std::string text(const Napi::Value &value, std::string_view argument, size_t limit) {
  size_t length = 0;
  if (!value.IsString() || napi_get_value_string_utf8(value.Env(), value, nullptr, 0, &length) != napi_ok)
    refuse(argument, "a string", value);
  if (length > limit) {
    throw Error(MOE_INVALID_ARGUMENT, argument, "a string of at most " + std::to_string(limit) + " bytes",
                std::to_string(length) + " bytes");
  }
  std::string result(length, '\0');
  napi_check(value.Env(), napi_get_value_string_utf8(value.Env(), value, result.data(), length + 1, &length));
  if (result.find('\0') != std::string::npos)
    throw Error(MOE_INVALID_ARGUMENT, argument, "a string without NUL", "one with NUL");
  return result;
}

Napi::Object object(const Napi::Value &value, std::string_view argument) {
  if (!value.IsObject() || value.IsFunction()) refuse(argument, "an object", value);
  return value.As<Napi::Object>();
}

std::vector<napi_value> elements(const Napi::Value &value, std::string_view argument, uint32_t limit) {
  const napi_env env = value.Env();
  uint32_t count = 0;
  if (!value.IsArray()) refuse(argument, "an array", value);
  napi_check(env, napi_get_array_length(env, value, &count));
  if (count > limit) {
    throw Error(MOE_INVALID_ARGUMENT, argument, "an array of at most " + std::to_string(limit) + " elements",
                std::to_string(count) + " elements");
  }
  std::vector<napi_value> result(count);
  for (uint32_t i = 0; i < count; i++) napi_check(env, napi_get_element(env, value, i, &result[i]));
  return result;
}

Napi::Value property(const Napi::Object &object, const char *name) {
  napi_value result = nullptr;
  napi_check(object.Env(), napi_get_named_property(object.Env(), object, name, &result));
  return Napi::Value(object.Env(), result);
}

bool is_typed_array(napi_env env, napi_value value) {
  bool yes = false;
  return napi_is_typedarray(env, value, &yes) == napi_ok && yes;
}

View view(const Napi::Value &value, std::string_view argument) {
  const napi_env env = value.Env();
  napi_typedarray_type type{};
  size_t length = 0;
  void *data = nullptr;
  napi_value buffer = nullptr;
  bool plain = false, detached = false;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, &buffer, nullptr) != napi_ok)
    refuse(argument, "a typed array", value);
  if (napi_is_arraybuffer(env, buffer, &plain) != napi_ok || !plain)
    refuse(argument, "a typed array over an ArrayBuffer", value);
  if (length == 0 && napi_is_detached_arraybuffer(env, buffer, &detached) == napi_ok && detached)
    refuse(argument, "a typed array that is not detached", value);
  const auto index = static_cast<size_t>(type);
  if (index >= element_bytes.size()) refuse(argument, "a typed array of a known kind", value);
  return {static_cast<std::byte *>(data), length * element_bytes[index], length, static_cast<int32_t>(type)};
}

View view_of(const Napi::Value &value, std::string_view argument, int32_t dtype) {
  const View result = view(value, argument);
  if (!array_fits(result.type, dtype)) {
    throw Error(MOE_DTYPE_MISMATCH, argument,
                "a " + std::string(array_name(dtype)) + " for " + std::string(dtypes[static_cast<size_t>(dtype)].name),
                describe(value));
  }
  return result;
}

View view_of(const Napi::Value &value, std::string_view argument, int32_t dtype, int64_t count) {
  const View result = view_of(value, argument, dtype);
  if (static_cast<int64_t>(result.elements) != count) refuse(argument, std::to_string(count) + " elements", value);
  return result;
}

std::string_view array_name(int32_t dtype) {
  switch (dtype) {
    case MOE_F32:
      return "Float32Array";
    case MOE_F16:
    case MOE_BF16:
      return "Uint16Array";
    case MOE_F64:
      return "Float64Array";
    case MOE_I32:
      return "Int32Array";
    case MOE_I8:
      return "Int8Array";
    default:
      return "Uint8Array";
  }
}

bool array_fits(int32_t type, int32_t dtype) {
  switch (dtype) {
    case MOE_F32:
      return type == napi_float32_array;
    case MOE_F16:
      return type == napi_uint16_array || type == float16_array;
    case MOE_BF16:
      return type == napi_uint16_array;
    case MOE_F64:
      return type == napi_float64_array;
    case MOE_I32:
      return type == napi_int32_array;
    case MOE_I8:
      return type == napi_int8_array;
    default:
      return type == napi_uint8_array;
  }
}

HostBlock::HostBlock(size_t bytes) : bytes_(bytes) {
  const auto rounded = static_cast<size_t>(align_up(static_cast<int64_t>(bytes > 0 ? bytes : 1)));
  data_.reset(static_cast<std::byte *>(std::aligned_alloc(64, rounded)));
  if (!data_) throw std::bad_alloc();
}

HostBlock HostBlock::copy(const View &view) {
  HostBlock block(view.bytes);
  if (view.bytes > 0) std::memcpy(block.data(), view.data, view.bytes);
  return block;
}

void HostBlock::Free::operator()(std::byte *data) const { std::free(data); }

HostTarget::HostTarget(const Napi::Value &array, std::string argument, size_t bytes)
    : array_(Napi::Reference<Napi::Value>::New(array, 1)), argument_(std::move(argument)), bytes_(bytes) {}

void HostTarget::store(Napi::Env, const void *from) const {
  const View now = view(array_.Value(), argument_);
  if (now.bytes != bytes_)
    refuse(argument_, "an array that keeps its " + std::to_string(bytes_) + " bytes until the promise settles",
           array_.Value());
  if (bytes_ > 0) std::memcpy(now.data, from, bytes_);
}

}  // namespace moe::addon
