#include "core/plan.h"

#include <algorithm>
#include <limits>

#include "moe/checked.h"
#include "moe/error.h"

namespace moe {
namespace {

// Which nodes run: those that write a state, and those whose outputs such a node or an output of the graph needs.
// read[value]: a node that runs, or an output of the graph, reads it.
std::vector<bool> live_nodes(const Graph &graph, std::vector<bool> &read) {
  const auto &nodes = graph.nodes();
  for (const Graph::Output &output : graph.outputs()) read[static_cast<size_t>(output.value)] = true;
  std::vector<bool> alive(nodes.size());
  for (size_t i = nodes.size(); i-- > 0;) {
    const Graph::Node &node = nodes[i];
    alive[i] = !node.operation->written_inputs.empty();
    for (const int32_t value : node.outputs) alive[i] = alive[i] || (value >= 0 && read[static_cast<size_t>(value)]);
    if (!alive[i]) continue;
    for (const int32_t value : node.inputs)
      if (value >= 0) read[static_cast<size_t>(value)] = true;
  }
  return alive;
}

}  // namespace

Plan::Plan(const Graph &graph, const MaxSizes &max_sizes, const ScratchOf &scratch)
    : symbols_(graph.symbols().begin(), graph.symbols().end()) {
  take_sizes(max_sizes);
  std::vector<bool> read(graph.values().size());
  const std::vector<bool> alive = live_nodes(graph, read);
  if (std::find(alive.begin(), alive.end(), true) == alive.end())
    throw Error(MOE_INVALID_ARGUMENT, "graph", "an output, or a node that writes a state", "none");
  take_values(graph, alive, read);
  place(scratch);
}

void Plan::take_sizes(const MaxSizes &max_sizes) {
  max_sizes_.assign(symbols_.size(), -1);
  for (const auto &[name, size] : max_sizes) {
    const auto found = std::find(symbols_.begin(), symbols_.end(), name);
    if (found == symbols_.end())
      throw Error(MOE_INVALID_ARGUMENT, "maxSizes." + name, "a symbol of the graph",
                  quote(name) + ", which no shape has");
    if (size < 0 || size > std::numeric_limits<int32_t>::max())
      throw Error(MOE_INVALID_ARGUMENT, "maxSizes." + name, "an integer 0 … 2147483647", std::to_string(size));
    max_sizes_[static_cast<size_t>(found - symbols_.begin())] = size;
  }
  for (size_t i = 0; i < symbols_.size(); ++i)
    if (max_sizes_[i] < 0)
      throw Error(MOE_INVALID_ARGUMENT, "maxSizes." + symbols_[i], "a bound for every symbol of the graph", "nothing");
}

void Plan::take_values(const Graph &graph, const std::vector<bool> &alive, const std::vector<bool> &read) {
  std::vector<int32_t> renumbered(graph.values().size(), -1);
  std::vector<int32_t> output_of(graph.values().size(), -1);
  for (size_t i = 0; i < graph.outputs().size(); ++i)
    output_of[static_cast<size_t>(graph.outputs()[i].value)] = static_cast<int32_t>(i);

  int32_t declared = 0;
  for (const Graph::Value &value : graph.values()) {
    if (value.operand.role != MOE_ROLE_INPUT && value.operand.role != MOE_ROLE_STATE) continue;
    bindings_.push_back({value.name, value.operand.role, value.operand.type});
    ++declared;
  }
  for (const Graph::Output &output : graph.outputs())
    bindings_.push_back({output.name, MOE_ROLE_OUTPUT, graph.type(output.value)});

  int32_t binding = 0;
  for (size_t i = 0; i < graph.values().size(); ++i) {
    const Graph::Value &value = graph.values()[i];
    const int32_t role = value.operand.role;
    const bool declared_role = role == MOE_ROLE_INPUT || role == MOE_ROLE_STATE;
    if (!declared_role && !read[i]) continue;
    renumbered[i] = static_cast<int32_t>(values_.size());
    moe_value planned{value.operand.type, role, -1, -1, value.weight, value.constant};
    if (declared_role) planned.binding = binding++;
    if (output_of[i] >= 0) {
      planned.role = MOE_ROLE_OUTPUT;
      planned.binding = declared + output_of[i];
    }
    values_.push_back(planned);
    weights_.push_back(value.weight_info);
    for (int32_t dim = 0; role != MOE_ROLE_WEIGHT && dim < planned.type.rank; ++dim)
      if (dim_size(planned.type.dim[dim], max_sizes_) > std::numeric_limits<int32_t>::max())
        throw Error(MOE_INVALID_ARGUMENT, "maxSizes", "dimensions up to 2147483647",
                    print_type(planned.type, symbols_) + " at the sizes given");
  }

  const auto planned = [&](int32_t value) { return value < 0 ? -1 : renumbered[static_cast<size_t>(value)]; };
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    if (!alive[i]) continue;
    const Graph::Node &from = graph.nodes()[i];
    moe_node node{};
    node.op = from.operation->op;
    std::fill(std::begin(node.input), std::end(node.input), -1);
    std::fill(std::begin(node.output), std::end(node.output), -1);
    std::transform(from.inputs.begin(), from.inputs.end(), node.input, planned);
    std::transform(from.outputs.begin(), from.outputs.end(), node.output, planned);
    attributes_.push_back(from.attributes);
    node.attributes = attributes_.back().data();  // the bytes stay where they are when the outer vector grows
    node.attribute_bytes = attributes_.back().size();
    nodes_.push_back(node);
    labels_.push_back(from.label);
  }
}

void Plan::place(const ScratchOf &scratch) {
  std::vector<Block> blocks;
  std::vector<int64_t *> offsets;
  std::vector<int32_t> block_of(values_.size(), -1);
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const auto node = static_cast<int32_t>(i);
    for (const int32_t value : nodes_[i].output) {
      if (value < 0 || values_[static_cast<size_t>(value)].role != MOE_ROLE_INNER) continue;
      block_of[static_cast<size_t>(value)] = static_cast<int32_t>(blocks.size());
      blocks.push_back({type_bytes(values_[static_cast<size_t>(value)].type, max_sizes_), node, node});
      offsets.push_back(&values_[static_cast<size_t>(value)].arena_offset);
    }
    for (const int32_t value : nodes_[i].input)
      if (value >= 0 && block_of[static_cast<size_t>(value)] >= 0)
        blocks[static_cast<size_t>(block_of[static_cast<size_t>(value)])].last = node;
  }
  std::vector<int64_t> scratch_bytes(nodes_.size());
  scratch(view(), scratch_bytes.data());
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (scratch_bytes[i] < 0)
      throw Error(MOE_INTERNAL, operation_name(static_cast<int32_t>(i)), "scratch of 0 bytes or more",
                  std::to_string(scratch_bytes[i]));
    if (scratch_bytes[i] == 0) continue;
    blocks.push_back({scratch_bytes[i], static_cast<int32_t>(i), static_cast<int32_t>(i)});
    offsets.push_back(&nodes_[i].scratch_offset);
  }
  arena_bytes_ = place_blocks(blocks);
  for (size_t i = 0; i < blocks.size(); ++i) *offsets[i] = blocks[i].offset;
}

moe_graph Plan::view() const {
  return {values_.data(),
          nodes_.data(),
          static_cast<int32_t>(values_.size()),
          static_cast<int32_t>(nodes_.size()),
          static_cast<int32_t>(symbols_.size()),
          static_cast<int32_t>(bindings_.size()),
          max_sizes_.data()};
}

std::string_view Plan::operation_name(int32_t node) const {
  return operation_of(nodes_[static_cast<size_t>(node)].op).name;
}

void Plan::check_sizes(std::span<const int64_t> sizes) const {
  if (sizes.size() != symbols_.size())
    throw Error(MOE_INVALID_ARGUMENT, "sizes", std::to_string(symbols_.size()) + " sizes, one a symbol",
                std::to_string(sizes.size()));
  for (size_t i = 0; i < sizes.size(); ++i)
    if (sizes[i] < 0 || sizes[i] > max_sizes_[i])
      throw Error(MOE_INVALID_ARGUMENT, "sizes." + symbols_[i], "an integer 0 … " + std::to_string(max_sizes_[i]),
                  std::to_string(sizes[i]));
}

int64_t Plan::binding_bytes(int32_t binding, std::span<const int64_t> sizes) const {
  return type_bytes(bindings_[static_cast<size_t>(binding)].type, sizes);
}

Cost Plan::cost(int32_t index, std::span<const int64_t> sizes) const {
  const moe_node &node = nodes_[static_cast<size_t>(index)];
  std::array<Operand, MOE_MAX_INPUTS> operands;
  CostContext context{{}, {}, node.attributes, sizes};
  for (size_t slot = 0; slot < MOE_MAX_INPUTS; ++slot) {
    if (node.input[slot] < 0) continue;
    const auto value = static_cast<size_t>(node.input[slot]);
    const bool weight = values_[value].role == MOE_ROLE_WEIGHT;
    operands[slot] = {values_[value].type, values_[value].role, weight ? &weights_[value] : nullptr};
    context.input[slot] = &operands[slot];
  }
  for (size_t slot = 0; slot < MOE_MAX_OUTPUTS; ++slot)
    if (node.output[slot] >= 0) context.output[slot] = &values_[static_cast<size_t>(node.output[slot])].type;
  return operation_of(node.op).cost(context);
}

}  // namespace moe
