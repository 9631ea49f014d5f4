// A compiled graph: every operand's place, type and sizes resolved once, so that a run only fills in addresses and
// symbols.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "context.h"
#include "device.h"
#include "linear/bank.h"
#include "moe/backend.h"

namespace moe::cpu {

struct Buffer {
  Memory memory;
};

struct Weight {
  Bank bank;
};

// One operand of a node.
struct OperandPlan {
  int place = 0;  // index in Context::input, or in Context::output
  bool output = false;
  int64_t factor = 0;  // rows = factor · (symbol < 0 ? 1 : sizes[symbol])
  int32_t symbol = -1;
  int32_t stored = MOE_F32;    // dtype in the graph
  std::byte *fixed = nullptr;  // constants
  int64_t fixed_bytes = 0;
  int64_t arena_offset = -1;    // inner values
  int32_t binding = -1;         // inputs, states, outputs
  int64_t convert_offset = -1;  // in the node's scratch, where the kernel sees f32 and the graph stores another float
  bool load = false, keep = false;  // convert before the kernel, after the kernel
};

struct NodePlan {
  int32_t op = 0;
  Kernel kernel = nullptr;
  const Bank *bank = nullptr;  // linear
  std::vector<std::byte> attributes;
  int64_t scratch_offset = -1;
  int64_t kernel_scratch = 0, scratch = 0;  // bytes; with the converted operands behind the kernel's
  Context context;                          // all but addresses and symbols
  std::vector<OperandPlan> operands;
};

class Program {
 public:
  Program(std::shared_ptr<Device> device, const moe_graph &graph);

  const std::vector<NodePlan> &nodes() const { return nodes_; }
  // Throws MOE_ABORTED where `cancel` stopped it.
  void run(const moe_run &run) const;

 private:
  void run_node(const NodePlan &node, const moe_run &run, std::byte *arena) const;

  std::shared_ptr<Device> device_;
  std::vector<NodePlan> nodes_;
  std::vector<int64_t> max_sizes_;
  int32_t binding_count_;
  int64_t arena_bytes_ = 0;
};

}  // namespace moe::cpu
