// Runs a kernel: a fiber a CUDA thread, warps that meet, barriers, and what each thread still has under way.
//
// Blocks of a plain launch run one after another; those of a cooperative launch all at once. Everything runs on the
// calling host thread; several host threads may launch at the same time. Threads of a block take turns in an order that
// changes from launch to launch, so that a missing barrier shows. Memory is only ordered by barriers (`publish`,
// `observe`), as on a GPU; the thread sanitizer sees every fiber as a thread of its own.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"

namespace moe::simt {

struct Dimension {
  unsigned x = 1, y = 1, z = 1;
  unsigned count() const { return x * y * z; }
};

inline constexpr unsigned warp_size = 32;
inline constexpr uint32_t all_lanes = 0xffffffffu;

struct Block;
struct Warp;

// A copy that was asked for and has not landed.
struct Copy {
  void *to;
  const void *from;
  size_t bytes, zeros;  // zeros follow the bytes
};

// A product of a warpgroup that was asked for: this lane's part of it. `perform` adds to `sums`.
struct WarpgroupProduct {
  const uint32_t *a;  // read when it is performed: whoever writes a too early spoils it
  uint64_t b;
  bool accumulate;
  size_t sums;  // index of a WarpgroupSums
  void (*perform)(const WarpgroupProduct &product, uint32_t *sums);
};
// Registers under products: they hold NaN until all of them are waited for, `values` are theirs till then.
struct WarpgroupSums {
  uint32_t *registers;
  std::vector<uint32_t> values;
  int pending = 0;
};

struct Thread {
  Fiber fiber;
  Dimension index;
  unsigned linear = 0, lane = 0;
  Block *block = nullptr;
  Warp *warp = nullptr;
  bool done = false;
  std::vector<Copy> copies;               // since the last commit
  std::deque<std::vector<Copy>> commits;  // oldest first
  bool warpgroup_fenced = false;
  std::vector<WarpgroupProduct> products;  // since the last commit
  std::deque<std::vector<WarpgroupProduct>> product_commits;
  std::vector<WarpgroupSums> warpgroup_sums;
};

// Lanes that meet at one instruction, named by the mask that they gave.
struct Meeting {
  uint32_t mask = 0, arrived = 0;
  const void *what = nullptr;  // the instruction: all must be at the same one
  std::array<void *, warp_size> argument{};
};

struct Warp {
  std::array<Thread *, warp_size> lane{};
  std::vector<Meeting> meetings;
  char memory_order = 0;  // an address for publish and observe
};

struct Barrier {
  unsigned arrived = 0;
  std::vector<Thread *> waiting;
  char memory_order = 0;
};

// Bytes that land in shared memory when the barrier object at `barrier` is asked about.
struct BulkCopy {
  void *barrier;
  Copy copy;
};

struct Block {
  Dimension index;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::array<Barrier, 16> barriers;
  std::vector<std::byte> shared_storage;
  std::byte *shared = nullptr;  // dynamic shared memory, 1024-byte aligned
  size_t shared_bytes = 0;
  unsigned alive = 0;
  bool vote = false;  // of the barrier that votes: somebody said yes
  std::vector<BulkCopy> bulk;
};

struct Shape {
  Dimension grid, block;
  size_t shared_bytes = 0;
  bool cooperative = false;
  const char *name = "";
};

// Runs `body` as every thread of the launch. Returns what went wrong, or "".
std::string launch(const Shape &shape, const std::function<void()> &body);

// ---- from inside a kernel --------------------------------------------------------------------------------------- //

Thread &current();
const Shape &shape();

// Ends the launch with a message. Never returns.
[[noreturn]] void fail(const std::string &text);

// Ends it for an access out of line with its size, or to the wrong one of shared and global memory.
[[noreturn]] void fail_access(const void *address, size_t bytes, bool shared);

// Lets the other threads go on; called by everything that polls.
void yield();

// The lanes of `mask` meet; the last to come runs `act` once with everybody's argument, then all go on. Orders no memory.
using Act = void (*)(const Meeting &meeting, Warp &warp);
void meet(uint32_t mask, Act act, void *argument);
// As __syncwarp: orders memory.
void meet_and_order(uint32_t mask);

// Barrier `id`: waits for `count` threads (0: all of the block that are alive). Orders memory.
void block_barrier(unsigned id, unsigned count);
// Barrier 0 for the whole block; whether any thread said yes.
bool block_vote(bool yes);
// Counts as arrived and goes on.
void block_arrive(unsigned id, unsigned count);

}  // namespace moe::simt
