#include "pool.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace moe::cpu {
namespace {

constexpr int most_helpers = 255;
constexpr auto spin_time = std::chrono::microseconds(30);

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Tasks [next, end), read on by one thread: what its prefetch asked for ahead is its own. On a line of its own.
struct alignas(64) Share {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

}  // namespace

// The slot of the one posted job. `busy` belongs to the caller that posts; `open` lets helpers in.
// A helper first counts itself into `inside`, then looks at `open`; the caller first closes, then waits for `inside` to
// be 0. Both sides are sequentially consistent, so no helper reads the job's fields after the caller left.
struct Pool::State {
  std::atomic<bool> busy{false}, open{false};
  std::atomic<int> inside{0}, joined{0}, parked{0};
  std::atomic<uint64_t> generation{0};
  Task task = nullptr;
  void *body = nullptr;
  int threads = 0;
  std::array<Share, most_helpers + 1> shares;

  std::mutex mutex;  // for parking only
  std::condition_variable wake;
  int helpers = 0;  // written by the holder of `busy`

  void divide(int64_t tasks) {
    const int64_t least = tasks / threads, more = tasks % threads;
    for (int64_t i = 0, begin = 0; i < threads; ++i) {
      Share &share = shares[static_cast<size_t>(i)];
      share.next.store(begin, std::memory_order_relaxed);
      share.end = begin += least + (i < more ? 1 : 0);
    }
  }

  // The thread's own share, then what is left of the others'.
  void work(int thread) {
    for (int i = 0; i < threads; ++i) {
      Share &share = shares[static_cast<size_t>((thread + i) % threads)];
      while (share.next.load(std::memory_order_relaxed) < share.end) {
        const int64_t claimed = share.next.fetch_add(1, std::memory_order_relaxed);
        if (claimed < share.end) task(body, claimed, thread);
      }
    }
  }

  void help() {
    uint64_t seen = 0;
    for (;;) {
      if (!await(seen)) park(seen);
      seen = generation.load();
      inside.fetch_add(1);
      if (open.load()) {
        const int thread = joined.fetch_add(1) + 1;
        if (thread < threads) work(thread);
      }
      inside.fetch_sub(1);
    }
  }

  // Spins for a new job; false where none came.
  bool await(uint64_t seen) {
    const auto end = std::chrono::steady_clock::now() + spin_time;
    do {
      for (int i = 0; i < 16; ++i) {
        if (generation.load(std::memory_order_acquire) != seen) return true;
        relax();
      }
    } while (std::chrono::steady_clock::now() < end);
    return false;
  }

  void park(uint64_t seen) {
    std::unique_lock lock(mutex);
    parked.fetch_add(1);
    wake.wait(lock, [&] { return generation.load() != seen; });
    parked.fetch_sub(1);
  }

  // Threads are started when a call first asks for them; where the system gives none, callers compute alone.
  void grow(int wanted) {
    try {
      for (; helpers < wanted && helpers < most_helpers; ++helpers) std::thread([this] { help(); }).detach();
    } catch (const std::system_error &) {
    }
  }
};

Pool &Pool::shared() {
  static Pool pool;
  return pool;
}

Pool::State &Pool::state() {
  static State &state = *std::make_unique<State>().release();  // outlives every helper
  return state;
}

int Pool::cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count > 0 ? static_cast<int>(count) : 1;
}

void Pool::run(int64_t tasks, int threads, Task task, void *body) {
  State &pool = state();
  if (threads <= 1 || tasks <= 1 || pool.busy.exchange(true)) {
    for (int64_t i = 0; i < tasks; ++i) task(body, i, 0);
    return;
  }
  threads = static_cast<int>(std::min<int64_t>({threads, tasks, most_helpers + 1}));
  pool.grow(threads - 1);
  pool.task = task;
  pool.body = body;
  pool.threads = threads;
  pool.divide(tasks);
  pool.joined.store(0);
  pool.open.store(true);
  pool.generation.fetch_add(1);
  if (pool.parked.load() > 0) {
    {
      std::lock_guard lock(pool.mutex);
    }  // a helper between its check and its wait is waiting after this
    pool.wake.notify_all();
  }
  pool.work(0);
  pool.open.store(false);
  for (int spins = 0; pool.inside.load() != 0; ++spins) {
    if (spins < 2000) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
  pool.busy.store(false);
}

}  // namespace moe::cpu
