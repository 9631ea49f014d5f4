#include "fiber.h"

#include <cstdint>
#include <cstring>
#include <deque>

// This file is never instrumented (CMakeLists.txt): the sanitizer hears of fibers through its own interface.
#if defined(MOE_SIMT_THREAD_SANITIZER)
extern "C" {
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *object);
void __tsan_release(void *object);
void __tsan_ignore_thread_begin(void);
void __tsan_ignore_thread_end(void);
}
// How many `Unseen` the fiber that runs has; a fiber that is left counts as one that has none, since it may never go on.
static thread_local unsigned unseen = 0;

// Handles of fibers that ended, oldest first: to make one costs a hundred times what most fibers do. What runs under a handle
// counts as in order with what ran under it before, so some are held back: thread i of two blocks never shares one.
struct Handles {
  static constexpr size_t held_back = 37;
  std::deque<void *> ended;

  ~Handles() {
    for (void *handle : ended) __tsan_destroy_fiber(handle);
  }
  void *take() {
    while (ended.size() <= held_back) ended.push_back(__tsan_create_fiber(0));
    void *const handle = ended.front();
    ended.pop_front();
    return handle;
  }
};
static thread_local Handles handles;
#endif

extern "C" void moe_simt_switch(void **save, void *load);

// Callee-saved registers go on the stack, and the stack pointer changes hands.
#if defined(__x86_64__)
asm(R"(
.text
.globl moe_simt_switch
.hidden moe_simt_switch
.type moe_simt_switch,@function
moe_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size moe_simt_switch,.-moe_simt_switch
)");
static constexpr size_t saved_words = 6, entry_word = 6;
#elif defined(__aarch64__)
asm(R"(
.text
.globl moe_simt_switch
.hidden moe_simt_switch
.type moe_simt_switch,@function
moe_simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size moe_simt_switch,.-moe_simt_switch
)");
static constexpr size_t saved_words = 20, entry_word = 11;
#else
#error "the simt device knows x86-64 and aarch64"
#endif

namespace moe::simt {

void prepare(Fiber &fiber, std::byte *stack, size_t bytes, void (*entry)()) {
  // At its first instruction the entry finds the stack as after a call: 16-byte aligned, less the return address.
  auto *top = reinterpret_cast<uint64_t *>(reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t{63}) - 8;
#if defined(__x86_64__)
  top -= 1;
#endif
  uint64_t *const frame = top - saved_words - (entry_word == saved_words ? 1 : 0);
  std::memset(frame, 0, (saved_words + 1) * sizeof(uint64_t));
  frame[entry_word] = reinterpret_cast<uint64_t>(entry);
  fiber.stack_pointer = frame;
#if defined(MOE_SIMT_THREAD_SANITIZER)
  fiber.sanitizer = handles.take();
#endif
}

void forget([[maybe_unused]] Fiber &fiber, [[maybe_unused]] const Fiber *seen_by) {
#if defined(MOE_SIMT_THREAD_SANITIZER)
  if (fiber.sanitizer && seen_by) {  // abandoned, with calls that never return
    __tsan_switch_to_fiber(fiber.sanitizer, 1);
    __tsan_switch_to_fiber(seen_by->sanitizer, 0);  // 0: in order
    __tsan_destroy_fiber(fiber.sanitizer);
  } else if (fiber.sanitizer) {
    handles.ended.push_back(fiber.sanitizer);
  }
#endif
  fiber.sanitizer = nullptr;
}

void adopt([[maybe_unused]] Fiber &fiber) {
#if defined(MOE_SIMT_THREAD_SANITIZER)
  fiber.sanitizer = __tsan_get_current_fiber();
#endif
}

void change(Fiber &from, Fiber &to) {
#if defined(MOE_SIMT_THREAD_SANITIZER)
  const unsigned own = unseen;
  if (own > 0) __tsan_ignore_thread_end();
  unseen = 0;
  __tsan_switch_to_fiber(to.sanitizer, 1);
  moe_simt_switch(&from.stack_pointer, to.stack_pointer);
  unseen = own;
  if (own > 0) __tsan_ignore_thread_begin();
#else
  moe_simt_switch(&from.stack_pointer, to.stack_pointer);
#endif
}

void publish([[maybe_unused]] void *object) {
#if defined(MOE_SIMT_THREAD_SANITIZER)
  __tsan_release(object);
#endif
}

void observe([[maybe_unused]] void *object) {
#if defined(MOE_SIMT_THREAD_SANITIZER)
  __tsan_acquire(object);
#endif
}

#if defined(MOE_SIMT_THREAD_SANITIZER)
Unseen::Unseen() {
  if (unseen++ == 0) __tsan_ignore_thread_begin();
}
Unseen::~Unseen() {
  if (--unseen == 0) __tsan_ignore_thread_end();
}
#else
Unseen::Unseen() = default;
Unseen::~Unseen() = default;
#endif

}  // namespace moe::simt
