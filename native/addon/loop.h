// The way back to the JavaScript thread. Workers hand finished jobs to the Loop of their environment; one thread-safe
// function wakes the event loop once for all that have gathered.
#pragma once
#include <napi.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "moe/backend.h"

namespace moe::addon {

class Worker;

// Work off the JavaScript thread, in calling order with the thread. Jobs are made and destroyed on the JS thread only,
// so they may hold references to JavaScript values and the last owner of native objects.
class Job {
 public:
  Job() = default;
  Job(const Job &) = delete;
  Job &operator=(const Job &) = delete;
  virtual ~Job() = default;                         // JS thread
  virtual bool cancelled() const { return false; }  // worker: true drops the job before it starts
  virtual void abort() noexcept {}                  // any thread, while execute runs: ends it soon
  virtual void execute() = 0;                       // worker; may throw
  virtual void complete(
      Napi::Env env) = 0;  // JS thread, in a handle scope; may throw Napi::Error only where nothing waits
  moe_error error{};       // code != MOE_OK: execute failed or was dropped
};

// A job behind a promise. `result` runs on the JS thread and gives the promise's value; what it throws rejects.
class PromiseJob : public Job {
 public:
  explicit PromiseJob(Napi::Env env) : deferred_(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise promise() const { return deferred_.Promise(); }
  void complete(Napi::Env env) final;

 protected:
  virtual Napi::Value result(Napi::Env env) { return env.Undefined(); }

 private:
  Napi::Promise::Deferred deferred_;
};

class Loop {
 public:
  explicit Loop(Napi::Env env);                  // JS thread
  void submitted(Napi::Env env);                 // JS thread: one more job is on its way; keeps the event loop alive
  void done(std::unique_ptr<Job> job) noexcept;  // any worker of this loop
  void add(Worker *worker) { workers_.insert(worker); }    // JS thread
  void remove(Worker *worker) { workers_.erase(worker); }  // JS thread
  // JS thread, environment cleanup: stops every worker (cancelling what runs), then drops what is finished.
  void close() noexcept;

 private:
  static void drain(napi_env env, napi_value callback, void *context, void *data);  // JS thread

  napi_threadsafe_function wake_ = nullptr;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Job>> finished_;
  std::vector<std::unique_ptr<Job>> draining_;
  bool woken_ = false;
  bool closed_ = false;                   // JS thread
  int64_t in_flight_ = 0;                 // JS thread
  std::unordered_set<Worker *> workers_;  // JS thread
};

}  // namespace moe::addon
