#include "addon/loop.h"

#include "addon/errors.h"
#include "addon/worker.h"

namespace moe::addon {

void PromiseJob::complete(Napi::Env env) {
  try {
    if (error.code == MOE_OK) {
      try {
        deferred_.Resolve(result(env));
        return;
      } catch (const Napi::Error &) {
        throw;
      } catch (...) {
        error = current_error();
      }
    }
    deferred_.Reject(make_error(env, error));
  } catch (const Napi::Error &thrown) {
    deferred_.Reject(thrown.Value());
  }
}

Loop::Loop(Napi::Env env) {
  const Napi::String name = Napi::String::New(env, "node_moe");
  napi_check(env,
             napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, drain, &wake_));
  napi_check(env, napi_unref_threadsafe_function(env, wake_));
}

void Loop::submitted(Napi::Env env) {
  if (in_flight_++ == 0) napi_ref_threadsafe_function(env, wake_);
}

void Loop::done(std::unique_ptr<Job> job) noexcept {
  bool wake;
  {
    const std::lock_guard lock(mutex_);
    finished_.push_back(std::move(job));
    wake = !woken_;
    woken_ = true;
  }
  if (wake) napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
}

void Loop::drain(napi_env env, napi_value, void *context, void *) {
  Loop &loop = *static_cast<Loop *>(context);
  if (env == nullptr || loop.closed_) return;
  std::vector<std::unique_ptr<Job>> jobs;
  {
    const std::lock_guard lock(loop.mutex_);
    jobs.swap(loop.draining_);
    jobs.swap(loop.finished_);
    loop.woken_ = false;
  }
  for (std::unique_ptr<Job> &job : jobs) {
    napi_handle_scope scope = nullptr;
    if (napi_open_handle_scope(env, &scope) != napi_ok) return;
    try {
      job->complete(env);
    } catch (...) {
      // Only an environment that is going down refuses to settle a promise; nothing can be told to it.
    }
    job.reset();
    napi_close_handle_scope(env, scope);
    if (--loop.in_flight_ == 0) napi_unref_threadsafe_function(env, loop.wake_);
  }
  jobs.clear();
  const std::lock_guard lock(loop.mutex_);
  loop.draining_.swap(jobs);  // keeps its storage
}

void Loop::close() noexcept {
  if (closed_) return;
  closed_ = true;
  for (Worker *worker : workers_) worker->cancel();
  for (Worker *worker : workers_) worker->stop();
  {
    const std::lock_guard lock(mutex_);
    draining_.swap(finished_);
  }
  draining_.clear();
  napi_release_threadsafe_function(wake_, napi_tsfn_release);
}

}  // namespace moe::addon
