// Functions on host memory that take long: each copies its arguments, runs on the environment's host thread, and fills
// the caller's arrays when its promise settles.
#pragma once
#include <napi.h>

#include <functional>
#include <memory>
#include <vector>

#include "addon/arguments.h"
#include "addon/loop.h"

namespace moe::addon {

// `body` runs on the host thread and may only touch what it owns; then every result is stored into its array.
class HostTask final : public PromiseJob {
 public:
  explicit HostTask(Napi::Env env) : PromiseJob(env) {}
  void execute() override { body(); }

  // Memory for a result that is stored into the array; it starts as a copy where `filled`.
  std::byte *add_result(const Napi::Value &array, const View &view, const char *argument, bool filled = false);
  const std::byte *add_source(const View &view);
  std::function<void()> body;

 protected:
  Napi::Value result(Napi::Env env) override;

 private:
  struct Result {
    HostBlock block;
    HostTarget array;
  };
  std::vector<HostBlock> sources_;
  std::vector<Result> results_;
};

Napi::Value start(Napi::Env env, std::unique_ptr<HostTask> task);

napi_value quantize(const Napi::CallbackInfo &info);
napi_value dequantize(const Napi::CallbackInfo &info);

}  // namespace moe::addon
