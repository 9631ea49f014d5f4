#include "host/fusion.h"

#include <algorithm>

namespace moe::cuda {

Readers::Readers(const moe_graph &graph) : graph_(graph), readers_(static_cast<size_t>(graph.value_count)) {
  for (int32_t n = 0; n < graph.node_count; ++n)
    for (int32_t i = 0; i < MOE_MAX_INPUTS; ++i)
      if (const int32_t value = graph.nodes[n].input[i]; value >= 0)
        readers_[static_cast<size_t>(value)].push_back({n, i});
}

bool Readers::only_as(int32_t value, int32_t input) const {
  const auto readers = of(value);
  return graph_.values[value].role == MOE_ROLE_INNER && !readers.empty() &&
         std::all_of(readers.begin(), readers.end(), [&](const Reader &reader) { return reader.input == input; });
}

void fuse(const Device &device, const moe_graph &graph, std::vector<Node> &nodes) {
  const Readers readers(graph);
  const FusionContext context{device, graph, readers, nodes};
  fuse_router(context);
  fuse_requantize(context);
}

}  // namespace moe::cuda
