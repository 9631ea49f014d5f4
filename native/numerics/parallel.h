// Loops over threads. A task must not depend on which thread runs it nor on how many there are, so that results do not
// either.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace moe::numerics {

// Threads a loop uses at most; 0: one a core that this process may run on.
inline std::atomic<int> thread_limit{0};
// Whether this thread runs a task already: a loop within a task has no threads of its own.
inline thread_local bool in_task = false;

inline int thread_count() {
  const int limit = thread_limit.load(std::memory_order_relaxed);
  return limit > 0 ? limit : static_cast<int>(std::max(std::thread::hardware_concurrency(), 1u));
}

// body(task) for 0 … tasks − 1, claimed one by one; rethrows the exception of the lowest task that threw. Starting the
// threads takes some tens of microseconds.
template <typename Body>
void parallel_for(int64_t tasks, const Body &body) {
  const int64_t threads = in_task ? 1 : std::min<int64_t>(thread_count(), tasks);
  if (threads <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  int64_t failed = tasks;
  const auto work = [&]() noexcept {
    in_task = true;
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      try {
        body(task);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (task < failed) {
          failed = task;
          error = std::current_exception();
        }
      }
    }
    in_task = false;
  };
  {
    std::vector<std::jthread> helpers;
    try {
      while (static_cast<int64_t>(helpers.size()) + 1 < threads) helpers.emplace_back(work);
    } catch (const std::system_error &) {
      // Where the system gives no more threads, those there are do the work.
    }
    work();
  }
  if (error) std::rethrow_exception(error);
}

// body(first, count) over `total` items in runs of a multiple of `multiple`, at least one run a thread where they
// suffice. Only for items that do not depend on each other, since the runs depend on the number of threads.
template <typename Body>
void parallel_chunks(int64_t total, int64_t multiple, const Body &body) {
  if (total <= 0) return;
  const int64_t threads = thread_count(), units = (total + multiple - 1) / multiple;
  const int64_t run = (units + threads - 1) / threads * multiple;
  parallel_for((total + run - 1) / run, [&](int64_t chunk) { body(chunk * run, std::min(run, total - chunk * run)); });
}

}  // namespace moe::numerics
