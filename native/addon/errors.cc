#include "addon/errors.h"

#include <string>

#include "addon/environment.h"
#include "core/error.h"

namespace moe::addon {

namespace {

Napi::Value plain_error(Napi::Env env, const moe_error &error, Napi::String code) {
  const std::string message = std::string(code_name(error.code)) + " " + error.argument + ": expected " +
                              error.expected + ", got " + error.received;
  Napi::Object plain = Napi::Error::New(env, message).Value();
  plain.Set("code", code);
  return plain;
}

}  // namespace

Napi::Value make_error(Napi::Env env, const moe_error &error) {
  const std::string_view name = code_name(error.code);
  Napi::String code = Napi::String::New(env, name.data(), name.size());
  Environment &environment = Environment::of(env);
  if (environment.error_class.IsEmpty()) return plain_error(env, error, code);
  Napi::Object details = Napi::Object::New(env);
  if (error.argument[0]) details.Set("argument", error.argument);
  if (error.expected[0]) details.Set("expected", error.expected);
  if (error.received[0]) details.Set("received", error.received);
  return environment.error_class.New({code, details});
}

void throw_error(napi_env env, const moe_error &error) noexcept {
  try {
    Napi::HandleScope scope(env);
    napi_throw(env, make_error(env, error));
  } catch (const Napi::Error &thrown) {
    throw_error(env, thrown);
  } catch (...) {
    napi_throw_error(env, "INTERNAL", "INTERNAL: an error could not be made");
  }
}

void throw_error(napi_env env, const Napi::Error &error) noexcept {
  try {
    Napi::HandleScope scope(env);
    napi_throw(env, error.Value());
  } catch (...) {
    napi_throw_error(env, "INTERNAL", "INTERNAL: an error could not be thrown");
  }
}

moe_error current_error() noexcept {
  moe_error error{};
  guarded(&error, [] { throw; });
  return error;
}

}  // namespace moe::addon
