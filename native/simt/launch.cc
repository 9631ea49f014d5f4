#include "launch.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace moe::simt {
namespace {

#if defined(MOE_SIMT_THREAD_SANITIZER) || defined(__SANITIZE_ADDRESS__)
constexpr size_t stack_bytes = size_t{256} << 10;
#else
constexpr size_t stack_bytes = size_t{64} << 10;
#endif
// Turns in a row in which every thread only polled: nobody is left who could help.
constexpr uint64_t idle_rounds = 1000;

// Stacks of a host thread, kept from launch to launch.
class Stacks {
 public:
  ~Stacks() {
    if (memory_) munmap(memory_, bytes_);
  }
  // For `count` threads that start anew.
  void renew(size_t count) {
    if (count * stack_bytes > bytes_) {
      if (memory_) munmap(memory_, bytes_);
      bytes_ = count * stack_bytes;
      memory_ = map(nullptr, bytes_, 0);
    }
    // Nobody returned from the frames that are left on them; a sanitizer remembers those.
#if defined(MOE_SIMT_THREAD_SANITIZER)
    map(memory_, count * stack_bytes, MAP_FIXED);
#elif defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(memory_, count * stack_bytes);
#endif
  }
  std::byte *at(size_t index) const { return static_cast<std::byte *>(memory_) + index * stack_bytes; }

 private:
  static void *map(void *place, size_t bytes, int flags) {
    void *const memory =
        mmap(place, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    return memory;
  }

  void *memory_ = nullptr;
  size_t bytes_ = 0;
};

struct Machine {
  const Shape *shape = nullptr;
  const std::function<void()> *body = nullptr;
  Fiber home;
  Thread *now = nullptr;
  std::deque<Thread *> ready;
  std::vector<std::unique_ptr<Block>> blocks;
  std::string failure;
  uint64_t polls = 0;  // since anything else happened
  size_t alive = 0;
  uint32_t random = 1;
  char launched = 0, ended = 0;  // addresses for publish and observe
};

thread_local Machine *machine = nullptr;
thread_local Stacks stacks;

uint32_t next_random() { return machine->random = machine->random * 1664525u + 1013904223u, machine->random >> 8; }

// Goes on in whoever is next; home, where nobody is.
void leave() {
  Machine &m = *machine;
  Thread &from = *m.now;
  if (m.ready.empty() || !m.failure.empty()) {
    m.now = nullptr;
    change(from.fiber, m.home);
    return;
  }
  Thread &to = *m.ready.front();
  m.ready.pop_front();
  if (&to == &from) return;
  m.now = &to;
  change(from.fiber, to.fiber);
}

void wake(Thread *thread) {
  machine->polls = 0;
  machine->ready.push_back(thread);
}

// From a place that changes, so that no order of the threads is the usual one.
template <typename Threads>
void wake_all(const Threads &threads) {
  const size_t count = threads.size(), first = count ? next_random() % count : 0;
  for (size_t i = 0; i < count; ++i) wake(threads[(first + i) % count]);
}

void release_barrier(Barrier &barrier) {
  barrier.arrived = 0;
  const std::vector<Thread *> waiting = std::move(barrier.waiting);
  barrier.waiting.clear();
  wake_all(waiting);
}

void run_thread() {
  Machine &m = *machine;
  observe(&m.launched);
  (*m.body)();
  const Unseen unseen;
  Thread &self = *machine->now;
  if (!self.copies.empty() || !self.commits.empty())
    fail("a thread ended before it waited for its asynchronous copies");
  if (!self.products.empty() || !self.product_commits.empty()) fail("a thread ended before it waited for its products");
  publish(&machine->ended);
  self.done = true;
  Block &block = *self.block;
  --block.alive;
  --machine->alive;
  machine->polls = 0;
  // Those at the whole block's barrier no longer wait for this one.
  Barrier &barrier = block.barriers[0];
  if (block.alive > 0 && barrier.arrived == block.alive) release_barrier(barrier);
  leave();
  std::abort();
}

void start_block(unsigned linear, size_t first_stack) {
  Machine &m = *machine;
  const Shape &shape = *m.shape;
  const Dimension &grid = shape.grid, &size = shape.block;
  auto made = std::make_unique<Block>();
  Block &block = *made;
  block.index = {linear % grid.x, linear / grid.x % grid.y, linear / (grid.x * grid.y)};
  block.alive = size.count();
  block.threads.resize(size.count());
  block.warps.resize((size.count() + warp_size - 1) / warp_size);
  block.shared_storage.resize(shape.shared_bytes + 1024, std::byte{0xff});  // NaN, until somebody writes
  const uintptr_t address = reinterpret_cast<uintptr_t>(block.shared_storage.data());
  block.shared = block.shared_storage.data() + ((1024 - address % 1024) % 1024);
  block.shared_bytes = shape.shared_bytes;
  for (unsigned i = 0; i < size.count(); ++i) {
    Thread &thread = block.threads[i];
    thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    thread.linear = i;
    thread.lane = i % warp_size;
    thread.block = &block;
    thread.warp = &block.warps[i / warp_size];
    thread.warp->lane[thread.lane] = &thread;
    prepare(thread.fiber, stacks.at(first_stack + i), stack_bytes, run_thread);
  }
  m.alive += size.count();
  std::vector<Thread *> order;
  for (Thread &thread : block.threads) order.push_back(&thread);
  wake_all(order);
  m.blocks.push_back(std::move(made));
}

// Runs what is ready until all are done; names what those wait for who can go on no more.
void run_all() {
  Machine &m = *machine;
  while (!m.ready.empty() && m.failure.empty()) {
    m.now = m.ready.front();
    m.ready.pop_front();
    change(m.home, m.now->fiber);
  }
  if (m.failure.empty() && m.alive > 0) {
    const Block &block = **std::find_if(m.blocks.begin(), m.blocks.end(), [](const auto &b) { return b->alive > 0; });
    std::string text = std::to_string(block.alive) + " threads of block " + std::to_string(block.index.x) +
                       " wait for others that never come:";
    for (size_t id = 0; id < block.barriers.size(); ++id)
      if (block.barriers[id].arrived > 0)
        text += " " + std::to_string(block.barriers[id].arrived) + " at barrier " + std::to_string(id) + ",";
    for (const Warp &warp : block.warps)
      for (const Meeting &meeting : warp.meetings)
        text += " " + std::to_string(__builtin_popcount(meeting.arrived)) + " of " +
                std::to_string(__builtin_popcount(meeting.mask)) + " lanes of a warp,";
    text.pop_back();
    m.failure = text;
  }
  for (auto &block : m.blocks) {
    if (m.failure.empty() && !block->bulk.empty()) m.failure = "a block ended before its bulk copies were waited for";
    for (Thread &thread : block->threads) forget(thread.fiber, thread.done ? nullptr : &m.home);
  }
  m.blocks.clear();
  m.ready.clear();
  m.alive = 0;
}

}  // namespace

std::string launch(const Shape &shape, const std::function<void()> &body) {
  const Unseen unseen;
  static std::atomic<uint32_t> seed{1};
  Machine own;
  own.shape = &shape;
  own.body = &body;
  own.random = seed.fetch_add(2654435761u);
  adopt(own.home);
  machine = &own;
  publish(&own.launched);
  const unsigned blocks = shape.grid.count(), at_once = shape.cooperative ? blocks : 1, size = shape.block.count();
  if (blocks > 0 && (size == 0 || size > 1024)) own.failure = "a block of " + std::to_string(size) + " threads";
  for (unsigned first = 0; first < blocks && own.failure.empty(); first += at_once) {
    stacks.renew(size_t{at_once} * size);
    for (unsigned i = 0; i < at_once; ++i) start_block(first + i, size_t{i} * size);
    run_all();
  }
  observe(&own.ended);  // only here: blocks are not ordered among themselves
  machine = nullptr;
  return own.failure.empty() ? "" : std::string(shape.name) + ": " + own.failure;
}

Thread &current() { return *machine->now; }
const Shape &shape() { return *machine->shape; }

void fail(const std::string &text) {
  const Unseen unseen;
  Machine &m = *machine;
  const Thread &self = *m.now;
  m.failure = text + " (block " + std::to_string(self.block->index.x) + "," + std::to_string(self.block->index.y) +
              "," + std::to_string(self.block->index.z) + " thread " + std::to_string(self.linear) + ")";
  leave();
  std::abort();
}

void fail_access(const void *address, size_t bytes, bool shared) {
  const std::string size = std::to_string(bytes) + " bytes";
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) fail("an access of " + size + " that is not aligned to them");
  fail(shared ? "a shared access of " + size + " elsewhere" : "a global access of " + size + " to shared memory");
}

void yield() {
  const Unseen unseen;
  Machine &m = *machine;
  if (++m.polls > idle_rounds * (m.alive + 1)) fail("every thread polls for what never comes");
  m.ready.push_back(m.now);
  leave();
}

void meet(uint32_t mask, Act act, void *argument) {
  const Unseen unseen;
  Thread &self = current();
  Warp &warp = *self.warp;
  const uint32_t own = 1u << self.lane;
  if ((mask & own) == 0) fail("a lane outside the mask that it gave");
  auto at = std::find_if(warp.meetings.begin(), warp.meetings.end(), [&](const Meeting &m) { return m.mask & own; });
  const auto pending = std::find_if(warp.meetings.begin(), warp.meetings.end(),
                                    [&](const Meeting &m) { return m.mask == mask && m.arrived != 0; });
  if (pending != warp.meetings.end()) at = pending;
  if (at == warp.meetings.end()) at = warp.meetings.insert(warp.meetings.end(), Meeting{mask, 0, nullptr, {}});
  if (at->mask != mask) fail("lanes that meet under different masks");
  if (at->arrived == 0) at->what = reinterpret_cast<const void *>(act);
  if (at->what != reinterpret_cast<const void *>(act)) fail("lanes of a warp that meet at different instructions");
  at->argument[self.lane] = argument;
  at->arrived |= own;
  if (at->arrived != mask) {
    leave();
    return;
  }
  const Meeting complete = *at;
  warp.meetings.erase(at);
  if (act) act(complete, warp);
  for (uint32_t rest = mask & ~own; rest != 0; rest &= rest - 1)
    wake(warp.lane[static_cast<size_t>(__builtin_ctz(rest))]);
}

void meet_and_order(uint32_t mask) {
  char *const order = &current().warp->memory_order;
  publish(order);
  meet(mask, nullptr, nullptr);
  observe(order);
}

void block_barrier(unsigned id, unsigned count) {
  const Unseen unseen;
  Thread &self = current();
  Block &block = *self.block;
  Barrier &barrier = block.barriers[id];
  publish(&barrier.memory_order);
  const unsigned wanted = count == 0 ? block.alive : count;
  if (++barrier.arrived > wanted) fail("more threads at barrier " + std::to_string(id) + " than it is for");
  if (barrier.arrived == wanted) {
    release_barrier(barrier);
  } else {
    barrier.waiting.push_back(&self);
    leave();
  }
  observe(&barrier.memory_order);
}

bool block_vote(bool yes) {
  const Unseen unseen;
  bool &vote = current().block->vote;
  if (yes) vote = true;
  block_barrier(0, 0);
  const bool any = vote;
  block_barrier(0, 0);
  vote = false;         // by everybody, once everybody has read it
  block_barrier(0, 0);  // and before anybody votes again
  return any;
}

void block_arrive(unsigned id, unsigned count) {
  const Unseen unseen;
  Barrier &barrier = current().block->barriers[id];
  publish(&barrier.memory_order);
  if (++barrier.arrived == count) release_barrier(barrier);
}

}  // namespace moe::simt
