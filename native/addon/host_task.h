// Functions on host memory that take long: each copies its arguments, runs on the environment's host thread, and fills
// the caller's arrays when its promise settles.
#pragma once
#include <napi.h>

namespace moe::addon {

napi_value quantize(const Napi::CallbackInfo &info);
napi_value dequantize(const Napi::CallbackInfo &info);
napi_value assign(const Napi::CallbackInfo &info);
napi_value ridge_solve(const Napi::CallbackInfo &info);
napi_value add_product(const Napi::CallbackInfo &info);

}  // namespace moe::addon
