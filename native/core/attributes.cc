// encode_attributes: JavaScript values to the attribute struct of an operation, by the table's fields.
#include <cmath>
#include <cstdio>
#include <cstring>

#include "core/operations.h"
#include "moe/dtype.h"
#include "moe/error.h"

namespace moe {
namespace {

std::string print_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.10g", value);
  return text;
}

std::string print_value(const AttributeValue &value) {
  if (const auto *number = std::get_if<double>(&value)) return print_number(*number);
  if (const auto *flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  return quote(std::get<std::string>(value));
}

std::string print_choices(std::span<const std::string_view> names) {
  std::string text;
  for (const std::string_view name : names)
    if (!name.empty()) text += (text.empty() ? "'" : ", '") + std::string(name) + "'";
  return text;
}

std::string expectation(const Field &field) {
  switch (field.kind) {
    case FieldKind::integer:
      return "an integer " + print_number(field.min) + " … " + print_number(field.max);
    case FieldKind::real:
      if (std::isinf(field.max)) return "a number";
      return field.min < 0 ? "a finite number" : "a finite number ≥ " + print_number(field.min);
    case FieldKind::boolean:
      return "true or false";
    case FieldKind::enumeration:
      return print_choices(field.names);
    case FieldKind::dtype:
      return "'f32', 'f16', 'bf16'";
  }
  return "";
}

[[noreturn]] void refuse(const Operation &operation, const Field &field, const std::string &received) {
  throw Error(MOE_INVALID_ARGUMENT, std::string(operation.name) + "." + std::string(field.name), expectation(field),
              received);
}

// The field's number for a value; refuses one of the wrong kind or out of range.
double number_of(const Operation &operation, const Field &field, const AttributeValue &value) {
  const auto *number = std::get_if<double>(&value);
  const auto *text = std::get_if<std::string>(&value);
  switch (field.kind) {
    case FieldKind::boolean:
      if (const auto *flag = std::get_if<bool>(&value)) return *flag ? 1 : 0;
      break;
    case FieldKind::integer:
      if (number && *number >= field.min && *number <= field.max && std::trunc(*number) == *number) return *number;
      break;
    case FieldKind::real:
      if (number && *number >= field.min && *number <= field.max) return *number;
      break;
    case FieldKind::enumeration:
      for (size_t i = 0; text && !text->empty() && i < field.names.size(); ++i)
        if (field.names[i] == *text) return static_cast<double>(i);
      break;
    case FieldKind::dtype:
      for (int32_t i = MOE_F32; text && i <= MOE_BF16; ++i)
        if (dtypes[static_cast<size_t>(i)].name == *text) return i;
      break;
  }
  refuse(operation, field, print_value(value));
}

void store(std::vector<std::byte> &attributes, const Field &field, double number) {
  if (field.kind == FieldKind::real) {
    const float value = static_cast<float>(number);
    std::memcpy(attributes.data() + field.offset, &value, sizeof value);
  } else {
    const int32_t value = static_cast<int32_t>(number);
    std::memcpy(attributes.data() + field.offset, &value, sizeof value);
  }
}

// alpha is 1 and beta what leaves `a` as it is, but a clamp needs both bounds.
void complete_map(const Operation &operation, std::vector<std::byte> &attributes) {
  moe_map map;
  std::memcpy(&map, attributes.data(), sizeof map);
  if (map.function == MOE_FUNCTION_CLAMP) {
    if (std::isnan(map.alpha)) refuse(operation, operation.fields[1], "nothing");
    if (std::isnan(map.beta)) refuse(operation, operation.fields[2], "nothing");
    if (map.alpha > map.beta)
      throw Error(MOE_INVALID_ARGUMENT, "map.beta", "at least alpha, " + print_number(map.alpha),
                  print_number(map.beta));
  }
  if (std::isnan(map.alpha)) map.alpha = 1;
  if (std::isnan(map.beta)) map.beta = map.function == MOE_FUNCTION_ADD ? 1 : 0;
  std::memcpy(attributes.data(), &map, sizeof map);
}

}  // namespace

std::vector<std::byte> encode_attributes(const Operation &operation, const AttributeList &attributes) {
  std::vector<std::byte> bytes(operation.attribute_bytes);
  std::vector<bool> given(operation.fields.size());
  for (const auto &[name, value] : attributes) {
    size_t index = 0;
    while (index < operation.fields.size() && operation.fields[index].name != name) ++index;
    if (index == operation.fields.size()) {
      std::string known;
      for (const Field &field : operation.fields) known += (known.empty() ? "" : ", ") + std::string(field.name);
      throw Error(MOE_INVALID_ARGUMENT, std::string(operation.name) + "." + name,
                  known.empty() ? "no attributes" : "one of the attributes " + known, quote(name));
    }
    const Field &field = operation.fields[index];
    store(bytes, field, number_of(operation, field, value));
    given[index] = true;
  }
  for (size_t i = 0; i < operation.fields.size(); ++i) {
    const Field &field = operation.fields[i];
    if (given[i]) continue;
    if (field.required) refuse(operation, field, "nothing");
    store(bytes, field, field.fallback);
  }
  if (operation.op == MOE_MAP) complete_map(operation, bytes);
  return bytes;
}

}  // namespace moe
