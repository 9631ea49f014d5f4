// Fusion: where one node takes up what the node before it would have stored. Decided before scratch is asked, from the graph
// alone: so the scratch that is asked and the program that is compiled see the same.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "host/node.h"

namespace moe::cuda {

class Device;

// Who reads each value of a graph, in the order of the nodes.
class Readers {
 public:
  struct Reader {
    int32_t node, input;
  };

  explicit Readers(const moe_graph &graph);

  std::span<const Reader> of(int32_t value) const { return readers_[static_cast<size_t>(value)]; }
  // An inner value that one node or more read, all of them as input number `input`: an operand that may change its form.
  bool only_as(int32_t value, int32_t input) const;

 private:
  const moe_graph &graph_;
  std::vector<std::vector<Reader>> readers_;
};

// What a rule looks at. nodes[i] is graph.nodes[i] with its operands at the largest sizes; there it writes what it decides.
struct FusionContext {
  const Device &device;
  const moe_graph &graph;
  const Readers &readers;
  std::vector<Node> &nodes;
};

// route/router.cc: a linear of few rows whose result is nothing but the logits of a route is computed by it (Node::product).
void fuse_router(const FusionContext &context);
// linear/requantize.cc: a linear whose result only integer linears read writes it as they read it (Node::rows_for and
// rows_from). Comes after fuse_router: nodes that are `absorbed` read nothing here.
void fuse_requantize(const FusionContext &context);

void fuse(const Device &device, const moe_graph &graph, std::vector<Node> &nodes);

}  // namespace moe::cuda
