#include "addon/worker.h"

#include <chrono>
#include <cstdlib>
#include <unordered_set>

#include "addon/errors.h"

namespace moe::addon {

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto spin_time = std::chrono::microseconds(20);

// Workers whose thread runs, of all environments. process.exit() skips the cleanup of an environment, so a handler of
// exit() cancels what runs; otherwise kernels would run into the destructors of the process. Never destroyed for the
// same reason.
struct Live {
  std::mutex mutex;
  std::unordered_set<Worker *> workers;
};
Live &live() {
  static Live *const instance = std::make_unique<Live>().release();
  return *instance;
}

void at_exit() {
  Live &all = live();
  const std::lock_guard lock(all.mutex);
  for (Worker *worker : all.workers) worker->cancel();
  for (Worker *worker : all.workers) worker->wait_quiet(2000);
}

void enlist(Worker *worker) {
  static const int registered = std::atexit(at_exit);
  static_cast<void>(registered);
  Live &all = live();
  const std::lock_guard lock(all.mutex);
  all.workers.insert(worker);
}

void delist(Worker *worker) {
  Live &all = live();
  const std::lock_guard lock(all.mutex);
  all.workers.erase(worker);
}

}  // namespace

Worker::Worker(std::shared_ptr<Loop> loop) : loop_(std::move(loop)) { loop_->add(this); }

Worker::~Worker() {
  stop();
  loop_->remove(this);
}

void Worker::push(Napi::Env env, std::unique_ptr<Job> job) {
  if (!thread_.joinable()) {
    if (stopping_) throw Error(MOE_DISPOSED, "queue", "a live queue", "one that was stopped");
    thread_ = std::thread([this] { run_jobs(); });
    enlist(this);
  }
  loop_->submitted(env);
  bool wake;
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
    pending_.fetch_add(1, std::memory_order_relaxed);
    wake = parked_;
  }
  signal_.fetch_add(1, std::memory_order_release);
  if (wake) wake_.notify_one();
}

void Worker::cancel() noexcept {
  std::atomic_ref(cancel_).store(1, std::memory_order_relaxed);
  const std::lock_guard lock(mutex_);
  if (running_) running_->abort();
}

void Worker::wait_idle() {
  if (pending_.load(std::memory_order_acquire) == 0) return;
  std::unique_lock lock(mutex_);
  waited_ = true;
  idle_.wait(lock, [this] { return pending_.load(std::memory_order_acquire) == 0; });
  waited_ = false;
}

void Worker::wait_quiet(int64_t milliseconds) noexcept {
  const Clock::time_point limit = Clock::now() + std::chrono::milliseconds(milliseconds);
  while (pending_.load(std::memory_order_acquire) != 0 && Clock::now() < limit)
    std::this_thread::sleep_for(std::chrono::microseconds(200));
}

void Worker::stop() noexcept {
  cancel();
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  signal_.fetch_add(1, std::memory_order_release);
  wake_.notify_one();
  if (thread_.joinable()) {
    thread_.join();
    delist(this);
  }
  // A job may hold the last reference to this worker's owner, so the loop takes those that are left.
  std::deque<std::unique_ptr<Job>> left;
  left.swap(jobs_);
  for (std::unique_ptr<Job> &job : left) {
    job->error = Error(MOE_ABORTED, "signal", "no abort", "an end of the queue before the start").get();
    loop_->done(std::move(job));
  }
}

void Worker::execute(Job &job) noexcept {
  const bool dropped = std::atomic_ref(cancel_).load(std::memory_order_relaxed) != 0 || job.cancelled();
  try {
    if (dropped) throw Error(MOE_ABORTED, "signal", "no abort", "an abort before the start");
    job.execute();
  } catch (...) {
    job.error = current_error();
  }
}

void Worker::run_jobs() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (jobs_.empty()) {
      const uint32_t seen = signal_.load(std::memory_order_acquire);
      lock.unlock();
      for (const Clock::time_point limit = Clock::now() + spin_time;
           signal_.load(std::memory_order_acquire) == seen && Clock::now() < limit;) {
        std::this_thread::yield();
      }
      lock.lock();
      parked_ = true;
      wake_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      parked_ = false;
      continue;
    }
    std::unique_ptr<Job> job = std::move(jobs_.front());
    jobs_.pop_front();
    running_ = job.get();
    lock.unlock();
    execute(*job);
    lock.lock();
    running_ = nullptr;
    const bool idle = pending_.fetch_sub(1, std::memory_order_release) == 1;
    if (idle && waited_) idle_.notify_all();
    lock.unlock();
    loop_->done(std::move(job));
    lock.lock();
  }
}

}  // namespace moe::addon
