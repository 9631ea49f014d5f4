// Entry of the addon: defines the classes and functions of lib/addon.ts in each environment that loads it.
#include <napi.h>

#include "addon/buffer.h"
#include "addon/cancel.h"
#include "addon/device.h"
#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/file.h"
#include "addon/graph.h"
#include "addon/host_task.h"
#include "addon/memory.h"
#include "addon/numerics_task.h"
#include "addon/program.h"
#include "addon/queue.h"
#include "addon/weight.h"

namespace moe::addon {

namespace {

napi_value set_error_class(const Napi::CallbackInfo &info) {
  if (!info[0].IsFunction()) refuse("errorClass", "the class MoeError", info[0]);
  Environment::of(info.Env()).error_class = Napi::Persistent(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

napi_value open_file(const Napi::CallbackInfo &info) {
  const std::string path = text(info[0], "path");
  return File::make(info.Env(), std::make_unique<File>(std::make_shared<const MappedFile>(path)));
}

napi_value create_cancel(const Napi::CallbackInfo &info) {
  return Cancel::make(info.Env(), std::make_unique<Cancel>());
}

template <napi_value (*body)(const Napi::CallbackInfo &)>
napi_value function(napi_env env, napi_callback_info callback) noexcept {
  return bridge(env, [&]() -> napi_value { return body(Napi::CallbackInfo(env, callback)); });
}

template <napi_value (*body)(const Napi::CallbackInfo &)>
napi_value promise(const Napi::CallbackInfo &info) {
  return rejecting(info.Env(), [&]() -> napi_value { return body(info); });
}

template <napi_value (*body)(const Napi::CallbackInfo &)>
void add(Napi::Object &exports, const char *name) {
  napi_value made = nullptr;
  napi_check(exports.Env(),
             napi_create_function(exports.Env(), name, NAPI_AUTO_LENGTH, function<body>, nullptr, &made));
  exports.Set(name, Napi::Value(exports.Env(), made));
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  auto made = std::make_unique<Environment>(env);
  Environment *environment = made.get();
  env.SetInstanceData(made.release());
  // After the thread-safe function was made, so that this hook runs before the one that closes it.
  env.AddCleanupHook([environment] { environment->close(); });
  Device::define(env);
  Queue::define(env);
  Buffer::define(env);
  Weight::define(env);
  GraphObject::define(env);
  Program::define(env);
  File::define(env);
  Cancel::define(env);
  exports.Set("abi", MOE_ABI);
  add<set_error_class>(exports, "setErrorClass");
  add<list_backends>(exports, "backends");
  add<open_device>(exports, "openDevice");
  add<open_file>(exports, "openFile");
  add<create_cancel>(exports, "createCancel");
  add<promise<release_memory>>(exports, "releaseMemory");
  add<promise<quantize>>(exports, "quantize");
  add<promise<dequantize>>(exports, "dequantize");
  add<promise<assign>>(exports, "assign");
  add<promise<add_product>>(exports, "addProduct");
  add<promise<product>>(exports, "product");
  add<promise<cholesky>>(exports, "cholesky");
  add<promise<symmetric_inverse>>(exports, "symmetricInverse");
  add<promise<ridge_solve>>(exports, "ridgeSolve");
  add<promise<triangular_product>>(exports, "triangularProduct");
  add<promise<triangular_solve>>(exports, "triangularSolve");
  add<promise<symmetric_eigen>>(exports, "symmetricEigen");
  add<promise<truncated_svd>>(exports, "truncatedSvd");
  add<promise<neuron_curve>>(exports, "neuronCurve");
  add<promise<refit_neurons>>(exports, "refitNeurons");
  add<promise<gptq>>(exports, "gptq");
  add<promise<sparse_gpt>>(exports, "sparseGpt");
  add<promise<search_permutation>>(exports, "searchPermutation");
  return exports;
}

}  // namespace

NODE_API_MODULE(node_moe, initialize)

}  // namespace moe::addon
