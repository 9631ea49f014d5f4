// A thread that runs jobs in order. It starts with the first job, spins for a few microseconds when the list runs dry
// (a caller that awaits run after run finds it awake), then parks. All methods are for the JS thread unless they say
// otherwise.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "addon/loop.h"

namespace moe::addon {

class Worker {
 public:
  explicit Worker(std::shared_ptr<Loop> loop);
  ~Worker();  // as stop()
  Worker(const Worker &) = delete;
  Worker &operator=(const Worker &) = delete;

  void push(Napi::Env env, std::unique_ptr<Job> job);
  // Blocks until no job is queued or running.
  void wait_idle();
  // Any thread: sets the word below and aborts the running job, so that it ends soon; queued ones will be dropped.
  void cancel() noexcept;
  // The word that cancel() sets, for jobs that have none of their own.
  const int32_t *cancel_word() const { return &cancel_; }
  // Cancels, waits for the running job and ends the thread. Queued jobs are dropped unfinished. Repeatable.
  void stop() noexcept;
  // Any thread: waits a bounded time for the running job; used at process exit, when nothing may block for ever.
  void wait_quiet(int64_t milliseconds) noexcept;

 private:
  void run_jobs();  // worker thread
  void execute(Job &job) noexcept;

  std::shared_ptr<Loop> loop_;
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<std::unique_ptr<Job>> jobs_;
  Job *running_ = nullptr;
  std::atomic<int64_t> pending_{0};              // queued or running
  alignas(64) std::atomic<uint32_t> signal_{0};  // counts pushes: what the spinning thread watches
  alignas(64) int32_t cancel_ = 0;
  bool parked_ = false, stopping_ = false, waited_ = false;
  std::thread thread_;
};

}  // namespace moe::addon
