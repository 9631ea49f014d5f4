// The thread pool: every task once, from many callers, nested, with more threads than cores.
#include "cpu/pool.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

using moe::cpu::Pool;

TEST_CASE("pool: every task runs once, by a thread index below the bound") {
  for (const int threads : {1, 2, 3, 7}) {
    for (const int64_t tasks : {0, 1, 2, 5, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(tasks));
      std::atomic<bool> inside{true};
      Pool::shared().parallel_for(tasks, threads, [&](int64_t task, int thread) {
        seen[static_cast<size_t>(task)].fetch_add(1);
        if (thread < 0 || thread >= threads) inside = false;
      });
      CHECK(inside.load());
      for (const auto &count : seen) CHECK(count.load() == 1);
    }
  }
}

TEST_CASE("pool: no two tasks at once share a thread index") {
  constexpr int threads = 4;
  std::vector<std::atomic<int>> busy(threads);
  std::atomic<bool> alone{true};
  for (int round = 0; round < 200; ++round) {
    Pool::shared().parallel_for(64, threads, [&](int64_t, int thread) {
      if (busy[static_cast<size_t>(thread)].fetch_add(1) != 0) alone = false;
      busy[static_cast<size_t>(thread)].fetch_sub(1);
    });
  }
  CHECK(alone.load());
}

TEST_CASE("pool: the tasks of a thread that is late are done by the others") {
  constexpr int64_t tasks = 64;
  std::atomic<int64_t> done{0};
  int64_t before = 0;  // tasks that ended while the first one, with half of all behind it, did not
  Pool::shared().parallel_for(tasks, 2, [&](int64_t task, int) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (task == 0 && done.load() < tasks - 1 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    if (task == 0) before = done.load();
    done.fetch_add(1);
  });
  CHECK(before == tasks - 1);
}

TEST_CASE("pool: what the tasks wrote is seen by the caller") {
  std::vector<int64_t> plain(5000);
  for (int64_t round = 1; round <= 50; ++round) {
    Pool::shared().parallel_for(5000, 3, [&](int64_t task, int) { plain[static_cast<size_t>(task)] += task * round; });
  }
  for (int64_t i = 0; i < 5000; ++i) CHECK(plain[static_cast<size_t>(i)] == i * 50 * 51 / 2);
}

TEST_CASE("pool: a task that calls the pool computes on its own thread") {
  std::atomic<int64_t> total{0};
  Pool::shared().parallel_for(8, 4, [&](int64_t, int) {
    const auto caller = std::this_thread::get_id();
    Pool::shared().parallel_for(16, 4, [&](int64_t, int) {
      if (std::this_thread::get_id() == caller) total += 1;
    });
  });
  CHECK(total.load() == 8 * 16);
}

TEST_CASE("pool: many callers at once") {
  std::atomic<int64_t> total{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 6; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 300; ++round) {
        Pool::shared().parallel_for(20, 1 + round % 4,
                                    [&](int64_t, int) { total.fetch_add(1, std::memory_order_relaxed); });
      }
    });
  }
  for (std::thread &caller : callers) caller.join();
  CHECK(total.load() == 6 * 300 * 20);
}

TEST_CASE("pool: helpers wake again after they parked") {
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::atomic<int> count{0};
    Pool::shared().parallel_for(10, 2, [&](int64_t, int) { ++count; });
    CHECK(count.load() == 10);
  }
}
