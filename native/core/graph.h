// Assembly of a graph: symbols, values and nodes are added one by one and checked at once. plan.h turns it into what a
// backend compiles. A Graph is used by one thread. It keeps the pointers of weights and constants; the caller keeps the
// objects alive.
#pragma once
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/operations.h"
#include "core/types.h"
#include "moe/backend.h"

namespace moe {

inline constexpr int32_t max_symbols = 8;

// A dimension as JavaScript wrote it: `symbol` empty means fixed.
struct Dimension {
  int64_t factor = 1;
  std::string symbol;
};

class Graph {
 public:
  Graph() = default;
  Graph(const Graph &) = delete;
  Graph &operator=(const Graph &) = delete;

  struct Value {
    Operand operand;
    std::string name;                // of an input, state or output
    WeightInfo weight_info;          // role WEIGHT
    moe_weight *weight = nullptr;    // role WEIGHT
    moe_buffer *constant = nullptr;  // role CONSTANT
  };
  struct Node {
    const Operation *operation;
    std::vector<int32_t> inputs, outputs;  // value index or -1
    std::vector<std::byte> attributes;
    std::string label;
  };
  struct Output {
    std::string name;
    int32_t value;
  };

  // Checks dtype, rank (1 … MOE_MAX_RANK) and dimensions; declares symbols that are new. `argument` names the value in
  // errors.
  moe_type make_type(std::string_view argument, std::string_view dtype, std::span<const Dimension> shape);

  // Each returns the index of the new value. Names of inputs, states and outputs are one space, each used once.
  int32_t add_input(std::string_view name, const moe_type &type);
  int32_t add_state(std::string_view name, const moe_type &type);
  // bytes: size of the buffer, at least that of the type; the type has no symbol.
  int32_t add_constant(moe_buffer *buffer, int64_t bytes, const moe_type &type);
  int32_t add_weight(moe_weight *weight, const WeightInfo &info);
  // inputs: value index or -1, trailing absent ones may be left out. Returns the value of each output slot, -1 where
  // ruled out.
  std::vector<int32_t> add_node(std::string_view operation, std::span<const int32_t> inputs,
                                const AttributeList &attributes, std::string_view label = "");
  // The value must be made by a node, and be an output once.
  void add_output(std::string_view name, int32_t value);

  // INVALID_ARGUMENT where there is no such value, or it is a weight (a weight has no type).
  const moe_type &type(int32_t value) const;

  std::span<const std::string> symbols() const { return symbols_; }
  const std::deque<Value> &values() const { return values_; }
  const std::vector<Node> &nodes() const { return nodes_; }
  const std::vector<Output> &outputs() const { return outputs_; }

 private:
  int32_t symbol(std::string_view argument, std::string_view name);
  int32_t add_value(Value value);
  void check_new_name(std::string_view name) const;

  std::vector<std::string> symbols_;
  std::deque<Value> values_;  // a deque: operands keep pointers to weight_info
  std::vector<Node> nodes_;
  std::vector<Output> outputs_;
};

}  // namespace moe
