// The one thread pool of the process, shared by every device, queue and JavaScript worker.
//
// A caller posts a job (tasks 0 … n−1), takes part in it, and returns when all of it is done. Each thread has a run of
// tasks, claims them one by one, and then those that are left of other runs; a task must not depend on which thread runs
// it. Idle helpers spin for some microseconds, then park. While one caller's job is posted, another caller (or a
// task that calls parallel_for itself) simply computes its own job alone: no waiting between callers, hence no
// deadlock. The pool is never destroyed: helpers may still be parked when the process ends.
#pragma once
#include <cstdint>

namespace moe::cpu {

class Pool {
 public:
  // `thread` is below the `threads` of the call, and no two tasks run at once with the same one: an index for scratch.
  using Task = void (*)(void *body, int64_t task, int thread);

  static Pool &shared();
  // Cores that this process may run on.
  static int cores();

  // Tasks must not throw. Any thread may call; blocks until every task is done.
  void run(int64_t tasks, int threads, Task task, void *body);

  // body(task, thread)
  template <typename Body>
  void parallel_for(int64_t tasks, int threads, const Body &body) {
    run(
        tasks, threads,
        [](void *opaque, int64_t task, int thread) { (*static_cast<const Body *>(opaque))(task, thread); },
        const_cast<void *>(static_cast<const void *>(&body)));
  }

 private:
  Pool() = default;
  struct State;
  State &state();
};

}  // namespace moe::cpu
