// Errors on their way to JavaScript: moe::Error becomes the class that setErrorClass gave (before that a plain Error
// with .code), and no C++ exception leaves a Node-API callback.
#pragma once
#include <napi.h>

#include <exception>
#include <new>

#include "moe/error.h"

namespace moe::addon {

// JS thread. May throw Napi::Error where the error class itself throws.
Napi::Value make_error(Napi::Env env, const moe_error &error);
// JS thread. Leaves a pending JavaScript exception.
void throw_error(napi_env env, const moe_error &error) noexcept;
void throw_error(napi_env env, const Napi::Error &error) noexcept;

// What any exception means as a moe_error; to be called in a catch block.
moe_error current_error() noexcept;

// Runs the body of a Node-API callback.
template <typename Body>
napi_value bridge(napi_env env, Body &&body) noexcept {
  try {
    return body();
  } catch (const Napi::Error &error) {
    throw_error(env, error);
  } catch (...) {
    throw_error(env, current_error());
  }
  return nullptr;
}

// Runs a body that returns a promise; its exception becomes a rejected one.
template <typename Body>
napi_value rejecting(napi_env env, Body &&body) {
  const auto rejected = [&](const Napi::Value &reason) {
    const Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
    deferred.Reject(reason);
    return deferred.Promise();
  };
  try {
    return body();
  } catch (const Napi::Error &error) {
    return rejected(error.Value());
  } catch (...) {
    return rejected(make_error(env, current_error()));
  }
}

// A failed Node-API call: the pending JavaScript exception, or its own message.
inline void napi_check(napi_env env, napi_status status) {
  if (status != napi_ok) throw Napi::Error::New(env);
}

}  // namespace moe::addon
