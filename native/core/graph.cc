#include "core/graph.h"

#include <algorithm>
#include <limits>

#include "moe/dtype.h"
#include "moe/error.h"

namespace moe {
namespace {

// Indices on devices are i32, so no dimension passes this.
constexpr int64_t max_dimension = std::numeric_limits<int32_t>::max();
constexpr size_t max_values = 1u << 24;

}  // namespace

int32_t Graph::symbol(std::string_view argument, std::string_view name) {
  const auto found = std::find(symbols_.begin(), symbols_.end(), name);
  if (found != symbols_.end()) return static_cast<int32_t>(found - symbols_.begin());
  if (symbols_.size() == max_symbols)
    throw Error(MOE_INVALID_ARGUMENT, argument, "at most " + std::to_string(max_symbols) + " symbols a graph",
                "a further one, " + quote(name));
  symbols_.emplace_back(name);
  return static_cast<int32_t>(symbols_.size() - 1);
}

moe_type Graph::make_type(std::string_view argument, std::string_view dtype, std::span<const Dimension> shape) {
  moe_type type = moe::make_type(parse_dtype(argument, dtype), {});
  if (shape.empty() || shape.size() > MOE_MAX_RANK)
    throw Error(MOE_INVALID_ARGUMENT, argument, "1 … " + std::to_string(MOE_MAX_RANK) + " dimensions",
                std::to_string(shape.size()));
  for (size_t i = 0; i < shape.size(); ++i) {
    const Dimension &dimension = shape[i];
    if (dimension.factor < 1 || dimension.factor > max_dimension)
      throw Error(MOE_INVALID_ARGUMENT, argument, "dimensions 1 … " + std::to_string(max_dimension),
                  std::to_string(dimension.factor));
    if (i > 0 && !dimension.symbol.empty())
      throw Error(MOE_INVALID_ARGUMENT, argument, "a symbol in the first dimension only",
                  quote(dimension.symbol) + " in dimension " + std::to_string(i));
  }
  for (const Dimension &dimension : shape)
    type.dim[type.rank++] = {dimension.factor, dimension.symbol.empty() ? -1 : symbol(argument, dimension.symbol)};
  return type;
}

int32_t Graph::add_value(Value value) {
  if (values_.size() >= max_values)
    throw Error(MOE_INVALID_ARGUMENT, "graph", "at most " + std::to_string(max_values) + " values", "more");
  values_.push_back(std::move(value));
  Value &stored = values_.back();
  if (stored.operand.role == MOE_ROLE_WEIGHT) stored.operand.weight = &stored.weight_info;
  return static_cast<int32_t>(values_.size() - 1);
}

void Graph::check_new_name(std::string_view name) const {
  bool taken = name.empty();
  for (const Value &value : values_) taken = taken || value.name == name;
  for (const Output &output : outputs_) taken = taken || output.name == name;
  if (taken)
    throw Error(MOE_INVALID_ARGUMENT, "name", "a name that no input, state or output of the graph has", quote(name));
}

int32_t Graph::add_input(std::string_view name, const moe_type &type) {
  check_new_name(name);
  return add_value({{type, MOE_ROLE_INPUT}, std::string(name), {}});
}

int32_t Graph::add_state(std::string_view name, const moe_type &type) {
  check_new_name(name);
  return add_value({{type, MOE_ROLE_STATE}, std::string(name), {}});
}

int32_t Graph::add_constant(moe_buffer *buffer, int64_t bytes, const moe_type &type) {
  for (int32_t i = 0; i < type.rank; ++i)
    if (type.dim[i].symbol >= 0)
      throw Error(MOE_INVALID_ARGUMENT, "constant", "a shape without symbols", print_type(type, symbols_));
  const int64_t needed = type_bytes(type, {});
  if (bytes < needed)
    throw Error(MOE_SHAPE_MISMATCH, "constant",
                "a buffer of at least " + std::to_string(needed) + " bytes for " + print_type(type, symbols_),
                std::to_string(bytes) + " bytes");
  Value value{{type, MOE_ROLE_CONSTANT}, "", {}};
  value.constant = buffer;
  return add_value(std::move(value));
}

int32_t Graph::add_weight(moe_weight *weight, const WeightInfo &info) {
  const bool sound = info.in >= 1 && info.in <= max_dimension && info.out >= 1 && info.out <= max_dimension &&
                     info.slots >= 1 && (!info.gated || info.out % 2 == 0);
  if (!sound)
    throw Error(MOE_INVALID_ARGUMENT, "weight", "in, out and slots of 1 or more, out even where gated",
                "in " + std::to_string(info.in) + ", out " + std::to_string(info.out) + ", slots " +
                    std::to_string(info.slots));
  Value value{
      {moe::make_type(MOE_U8, {fixed_dim(info.slots), fixed_dim(info.out), fixed_dim(info.in)}), MOE_ROLE_WEIGHT},
      "",
      info};
  value.weight = weight;
  return add_value(std::move(value));
}

std::vector<int32_t> Graph::add_node(std::string_view operation_name, std::span<const int32_t> inputs,
                                     const AttributeList &attributes, std::string_view label) {
  const Operation &operation = find_operation(operation_name);
  if (inputs.size() > operation.inputs.size())
    throw Error(MOE_INVALID_ARGUMENT, operation.name, "at most " + std::to_string(operation.inputs.size()) + " inputs",
                std::to_string(inputs.size()));
  Node node{&operation,
            std::vector<int32_t>(operation.inputs.size(), -1),
            {},
            encode_attributes(operation, attributes),
            std::string(label)};
  std::copy(inputs.begin(), inputs.end(), node.inputs.begin());

  Inference inference{operation, {}, node.attributes.data(), symbols_};
  for (size_t slot = 0; slot < node.inputs.size(); ++slot) {
    const int32_t index = node.inputs[slot];
    const std::string argument = std::string(operation.name) + "." + std::string(operation.inputs[slot].name);
    if (index == -1) {
      if (!operation.inputs[slot].optional)
        throw Error(MOE_INVALID_ARGUMENT, argument, "a value of the graph", "nothing");
      continue;
    }
    if (index < 0 || static_cast<size_t>(index) >= values_.size())
      throw Error(MOE_INVALID_ARGUMENT, argument, "a value of the graph, 0 … " + std::to_string(values_.size() - 1),
                  std::to_string(index));
    const Operand &operand = values_[static_cast<size_t>(index)].operand;
    const bool weight_slot = operation.op == MOE_LINEAR && slot == 1;
    if (weight_slot != (operand.role == MOE_ROLE_WEIGHT))
      throw Error(MOE_INVALID_ARGUMENT, argument, weight_slot ? "a weight" : "a tensor value",
                  weight_slot ? "a tensor value" : "a weight");
    inference.input[slot] = &operand;
  }
  operation.infer(inference);
  for (size_t slot = 0; slot < operation.outputs.size(); ++slot)
    node.outputs.push_back(inference.present[slot] ? add_value({{inference.output[slot], MOE_ROLE_INNER}, "", {}})
                                                   : -1);
  nodes_.push_back(std::move(node));
  return nodes_.back().outputs;
}

void Graph::add_output(std::string_view name, int32_t value) {
  check_new_name(name);
  type(value);
  if (values_[static_cast<size_t>(value)].operand.role != MOE_ROLE_INNER)
    throw Error(MOE_INVALID_ARGUMENT, "value", "a value that a node of the graph makes",
                "an input, state or constant as output " + quote(name));
  for (const Output &output : outputs_)
    if (output.value == value)
      throw Error(MOE_INVALID_ARGUMENT, "value", "a value that is not an output yet",
                  "the value of output " + quote(output.name) + " as output " + quote(name));
  outputs_.push_back({std::string(name), value});
}

const moe_type &Graph::type(int32_t value) const {
  if (value < 0 || static_cast<size_t>(value) >= values_.size())
    throw Error(MOE_INVALID_ARGUMENT, "value", "a value of the graph", std::to_string(value));
  const Operand &operand = values_[static_cast<size_t>(value)].operand;
  if (operand.role == MOE_ROLE_WEIGHT) throw Error(MOE_INVALID_ARGUMENT, "value", "a tensor value", "a weight");
  return operand.type;
}

}  // namespace moe
