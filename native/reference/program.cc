// A copied graph: operands of a node at given sizes, checked against buffers and arena; the table of operations.
#include <algorithm>
#include <array>

#include "reference.h"

namespace moe::reference {

namespace {

constexpr std::array<Operation, MOE_OP_COUNT> table{{
    {"embed", sizeof(moe_embed), plan_embed, run_embed},
    {"norm", sizeof(moe_norm), plan_norm, run_norm},
    {"linear", sizeof(moe_linear), plan_linear, run_linear},
    {"rotate", sizeof(moe_rotate), plan_rotate, run_rotate},
    {"attention", sizeof(moe_attention), plan_attention, run_attention},
    {"map", sizeof(moe_map), plan_map, run_map},
    {"route", sizeof(moe_route), plan_route, run_route},
    {"combine", sizeof(moe_combine), plan_combine, run_combine},
    {"convolve", sizeof(moe_convolve), plan_convolve, run_convolve},
    {"take", sizeof(moe_take), plan_take, run_take},
    {"score", sizeof(moe_score), plan_score, run_score},
    {"accumulate", sizeof(moe_accumulate), plan_accumulate, run_accumulate},
}};

// Shape of a value at these sizes; its element count fits.
Tensor shape_of(const moe_value &value, const int64_t *sizes, size_t symbols) {
  if (value.role == MOE_ROLE_WEIGHT) {  // the bank itself tells its shape
    Tensor bank;
    bank.role = value.role, bank.rank = 1, bank.dtype = MOE_U8, bank.weight = value.weight;
    return bank;
  }
  expect(dtype_known(value.type.dtype), "dtype", "a known dtype", value.type.dtype);
  expect(value.type.rank >= 1 && value.type.rank <= MOE_MAX_RANK, "rank", "a rank from 1 to 4", value.type.rank);
  Tensor tensor;
  tensor.dtype = value.type.dtype;
  tensor.role = value.role;
  tensor.rank = value.type.rank;
  int64_t count = 64;  // as bits of the widest dtype, so that bytes cannot overflow either
  for (size_t i = 0; i < static_cast<size_t>(tensor.rank); ++i) {
    const moe_dim &dim = value.type.dim[i];
    expect(dim.symbol < static_cast<int64_t>(symbols), "symbol", "a symbol of the graph", dim.symbol);
    expect(dim.factor >= 0, "shape", "a dimension of at least 0", dim.factor);
    const int64_t size = dim.symbol < 0 ? 1 : sizes[dim.symbol];
    tensor.dim[i] = checked_multiply(dim.factor, size, "shape");
    count = checked_multiply(count, tensor.dim[i], "shape");
  }
  return tensor;
}

void expect_place(int64_t offset, int64_t bytes, int64_t available, std::string_view name) {
  if (offset >= 0 && bytes <= available && offset <= available - bytes) return;
  throw Error(MOE_INVALID_ARGUMENT, name,
              "a buffer of at least " + std::to_string(offset) + " + " + std::to_string(bytes) + " bytes",
              std::to_string(available) + " bytes");
}

}  // namespace

const Operation &operation(int32_t op) {
  if (op < 0 || op >= MOE_OP_COUNT)
    throw Error(MOE_UNSUPPORTED, "op", "an operation from 0 to " + std::to_string(MOE_OP_COUNT - 1),
                std::to_string(op));
  return table[static_cast<size_t>(op)];
}

}  // namespace moe::reference

moe_program::moe_program(std::shared_ptr<moe_device> owner, const moe_graph &graph)
    : device(std::move(owner)), binding_count(graph.binding_count) {
  using moe::reference::expect;
  expect(graph.value_count >= 0 && graph.node_count >= 0 && graph.symbol_count >= 0 && graph.binding_count >= 0,
         "graph", "counts of at least 0", -1);
  values.assign(graph.values, graph.values + graph.value_count);
  nodes.assign(graph.nodes, graph.nodes + graph.node_count);
  max_sizes.assign(graph.max_sizes, graph.max_sizes + graph.symbol_count);
  for (const int64_t size : max_sizes) expect(size >= 0, "maxSizes", "a size of at least 0", size);
  for (const moe_value &value : values) {
    const moe::reference::Tensor tensor = moe::reference::shape_of(value, max_sizes.data(), max_sizes.size());
    if (value.role == MOE_ROLE_CONSTANT) {
      if (value.constant == nullptr) throw moe::Error(MOE_INVALID_ARGUMENT, "constant", "a buffer", "NULL");
      constants.push_back(value.constant->shared_from_this());
      moe::reference::expect_place(0, tensor.bytes(), static_cast<int64_t>(value.constant->bytes), "constant");
    } else if (value.role == MOE_ROLE_WEIGHT) {
      if (value.weight == nullptr || !value.weight->finished)
        throw moe::Error(MOE_INVALID_ARGUMENT, "weight", "a finished weight",
                         value.weight == nullptr ? "NULL" : "an unfinished one");
      weights.push_back(value.weight->shared_from_this());
    } else if (value.role == MOE_ROLE_INNER) {
      expect(value.arena_offset < 0 || value.arena_offset % 64 == 0, "arena", "an offset in multiples of 64",
             value.arena_offset);
      if (value.arena_offset >= 0)
        arena_bytes = std::max(arena_bytes, moe::checked_add(value.arena_offset, tensor.bytes(), "arena"));
    } else {
      expect(value.binding >= 0 && value.binding < binding_count, "binding", "a binding of the graph", value.binding);
    }
  }
  for (size_t i = 0; i < nodes.size(); ++i) {
    moe_node &node = nodes[i];
    const moe::reference::Operation &operation = moe::reference::operation(node.op);
    if (node.attributes == nullptr || node.attribute_bytes != operation.attribute_bytes)
      throw moe::Error(MOE_INVALID_ARGUMENT, operation.name,
                       std::to_string(operation.attribute_bytes) + " bytes of attributes",
                       std::to_string(node.attribute_bytes));
    for (const int32_t value : node.input)
      expect(value >= -1 && value < graph.value_count, "input", "a value of the graph", value);
    for (const int32_t value : node.output) {
      expect(value >= -1 && value < graph.value_count, "output", "a value of the graph", value);
      const int32_t role = value < 0 ? MOE_ROLE_OUTPUT : values[static_cast<size_t>(value)].role;
      expect(role == MOE_ROLE_OUTPUT || role == MOE_ROLE_INNER, "output", "the role output or inner", role);
    }
    const auto *bytes = static_cast<const std::byte *>(node.attributes);
    attributes.emplace_back(bytes, bytes + node.attribute_bytes);
    node.attributes = attributes.back().data();
    scratch.push_back(operation.plan(bind(i, max_sizes.data(), nullptr, nullptr)));
    expect(node.scratch_offset < 0 || node.scratch_offset % 64 == 0, "scratch", "an offset in multiples of 64",
           node.scratch_offset);
    if (node.scratch_offset >= 0)
      arena_bytes = std::max(arena_bytes, moe::checked_add(node.scratch_offset, scratch.back(), "arena"));
  }
}

moe::reference::Node moe_program::bind(size_t index, const int64_t *sizes, moe_buffer *arena,
                                       moe_buffer *const *bindings) const {
  using moe::reference::expect_place;
  const moe_node &node = nodes[index];
  const auto operand = [&](int32_t which) {
    moe::reference::Tensor tensor;
    if (which < 0) return tensor;
    const moe_value &value = values[static_cast<size_t>(which)];
    tensor = moe::reference::shape_of(value, sizes, max_sizes.size());
    if (arena == nullptr || value.role == MOE_ROLE_WEIGHT) return tensor;
    moe_buffer *holder = value.role == MOE_ROLE_INNER      ? arena
                         : value.role == MOE_ROLE_CONSTANT ? value.constant
                                                           : bindings[value.binding];
    const int64_t offset = value.role == MOE_ROLE_INNER ? value.arena_offset : 0;
    expect_place(offset, tensor.bytes(), static_cast<int64_t>(holder->bytes),
                 value.role == MOE_ROLE_INNER ? "arena" : "bindings");
    tensor.data = holder->data.get() + offset;
    return tensor;
  };
  moe::reference::Node bound;
  bound.op = node.op;
  bound.attributes = node.attributes;
  for (size_t i = 0; i < bound.input.size(); ++i) bound.input[i] = operand(node.input[i]);
  for (size_t i = 0; i < bound.output.size(); ++i) bound.output[i] = operand(node.output[i]);
  if (arena != nullptr && scratch[index] > 0) {
    expect_place(node.scratch_offset, scratch[index], static_cast<int64_t>(arena->bytes), "arena");
    bound.scratch = arena->data.get() + node.scratch_offset;
  }
  return bound;
}
