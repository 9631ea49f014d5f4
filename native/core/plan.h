// From an assembled Graph to the moe_graph that a backend compiles: dead nodes go, values are renumbered, inner values
// and the scratch of nodes get places in one arena by their lifetimes.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/graph.h"
#include "moe/backend.h"

namespace moe {

// A stretch of arena: alive in nodes first … last (both included). `offset` is the result of place_blocks.
struct Block {
  int64_t bytes;
  int32_t first, last;
  int64_t offset = 0;
};
// Gives every block a 64-byte aligned offset so that no two blocks alive at once overlap; returns the bytes of the
// arena. Largest block first, each into the smallest gap that fits.
int64_t place_blocks(std::span<Block> blocks);

// Fills per_node[node_count] (moe_backend.scratch); throws moe::Error.
using ScratchOf = std::function<void(const moe_graph &graph, int64_t *per_node)>;
using MaxSizes = std::vector<std::pair<std::string, int64_t>>;

// Owns everything that view() points to. Movable, not copyable. Immutable once made, so any thread may read it.
class Plan {
 public:
  struct Binding {
    std::string name;
    int32_t role;  // INPUT, STATE or OUTPUT
    moe_type type;
  };

  // max_sizes: a bound ≥ 0 for every symbol of the graph, and for no other name.
  Plan(const Graph &graph, const MaxSizes &max_sizes, const ScratchOf &scratch);
  Plan(Plan &&) = default;
  Plan &operator=(Plan &&) = default;

  moe_graph view() const;
  int64_t arena_bytes() const { return arena_bytes_; }
  // Inputs and states as declared, then outputs as declared.
  std::span<const Binding> bindings() const { return bindings_; }
  std::span<const std::string> symbols() const { return symbols_; }
  std::span<const int64_t> max_sizes() const { return max_sizes_; }
  int32_t node_count() const { return static_cast<int32_t>(nodes_.size()); }
  std::string_view operation_name(int32_t node) const;
  const std::string &label(int32_t node) const { return labels_[static_cast<size_t>(node)]; }

  // One size a symbol, 0 ≤ size ≤ maximum; else INVALID_ARGUMENT naming the symbol.
  void check_sizes(std::span<const int64_t> sizes) const;
  // Bytes that a binding must have at least.
  int64_t binding_bytes(int32_t binding, std::span<const int64_t> sizes) const;
  Cost cost(int32_t node, std::span<const int64_t> sizes) const;

 private:
  void take_sizes(const MaxSizes &max_sizes);
  void take_values(const Graph &graph, const std::vector<bool> &alive, const std::vector<bool> &read);
  void place(const ScratchOf &scratch);

  std::vector<std::string> symbols_;
  std::vector<int64_t> max_sizes_;
  std::vector<moe_value> values_;
  std::vector<WeightInfo> weights_;  // parallel to values_
  std::vector<moe_node> nodes_;
  std::vector<std::vector<std::byte>> attributes_;  // parallel to nodes_
  std::vector<std::string> labels_;
  std::vector<Binding> bindings_;
  int64_t arena_bytes_ = 0;
};

}  // namespace moe
