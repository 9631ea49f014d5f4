// What the addon keeps a Node environment (the main thread or a worker thread): instance data only, nothing of
// JavaScript is global.
#pragma once
#include <napi.h>

#include <array>
#include <memory>

#include "addon/loop.h"
#include "addon/worker.h"

namespace moe::addon {

enum class ClassId { device, queue, buffer, weight, graph, program, file, cancel, count };

struct Environment {
  explicit Environment(Napi::Env env);
  static Environment &of(napi_env env);
  // Ends all threads of this environment. Runs as its cleanup hook, before any finalizer; safe to repeat.
  void close() noexcept;

  Napi::FunctionReference error_class;
  std::array<Napi::FunctionReference, static_cast<size_t>(ClassId::count)> classes;
  const void *making = nullptr;  // the native object that a constructor call now in progress is for
  std::shared_ptr<Loop> loop;
  Worker loads;       // weights, limits of devices
  Worker host_tasks;  // quantize, assign, …
};

}  // namespace moe::addon
