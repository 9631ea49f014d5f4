// The functions of native/numerics for JavaScript, each a HostTask.
#pragma once
#include <napi.h>

namespace moe::addon {

napi_value assign(const Napi::CallbackInfo &info);
napi_value add_product(const Napi::CallbackInfo &info);
napi_value product(const Napi::CallbackInfo &info);
napi_value cholesky(const Napi::CallbackInfo &info);
napi_value symmetric_inverse(const Napi::CallbackInfo &info);
napi_value ridge_solve(const Napi::CallbackInfo &info);
napi_value triangular_product(const Napi::CallbackInfo &info);
napi_value triangular_solve(const Napi::CallbackInfo &info);
napi_value symmetric_eigen(const Napi::CallbackInfo &info);
napi_value truncated_svd(const Napi::CallbackInfo &info);
napi_value neuron_curve(const Napi::CallbackInfo &info);
napi_value refit_neurons(const Napi::CallbackInfo &info);
napi_value gptq(const Napi::CallbackInfo &info);
napi_value sparse_gpt(const Napi::CallbackInfo &info);
napi_value search_permutation(const Napi::CallbackInfo &info);

}  // namespace moe::addon
