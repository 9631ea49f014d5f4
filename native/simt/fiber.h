// A stack of its own and a place to go on from: what one CUDA thread is here. Switching costs a few nanoseconds.
#pragma once
#include <cstddef>

namespace moe::simt {

// The thread sanitizer's own handle of a fiber; null where it is off.
struct Fiber {
  void *stack_pointer = nullptr;
  void *sanitizer = nullptr;
};

// Prepares `fiber` to call `entry` on the stack [stack, stack + bytes) when it is switched to first; entry never returns.
void prepare(Fiber &fiber, std::byte *stack, size_t bytes, void (*entry)());
// Gives the sanitizer's handle back. The fiber has ended or is abandoned; in that case `seen_by`, which calls, sees from
// here on what it did.
void forget(Fiber &fiber, const Fiber *seen_by);
// Makes `fiber` stand for the stack that calls this.
void adopt(Fiber &fiber);
// Leaves `from`, goes on in `to`. No order of memory follows from it: only `publish` and `observe` make one.
void change(Fiber &from, Fiber &to);

// What a barrier does to memory: what was done before `publish(object)` is seen after a later `observe(object)`.
void publish(void *object);
void observe(void *object);

// While alive, the sanitizer sees nothing of what the fiber that calls this does: for what the machine keeps for itself, and
// for what it does in the name of others.
class Unseen {
 public:
  Unseen();
  ~Unseen();
  Unseen(const Unseen &) = delete;
  Unseen &operator=(const Unseen &) = delete;
};

}  // namespace moe::simt
