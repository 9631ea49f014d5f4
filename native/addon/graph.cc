#include "addon/graph.h"

#include "addon/buffer.h"
#include "addon/program.h"
#include "addon/weight.h"
#include "core/plan.h"
#include "moe/dtype.h"

namespace moe::addon {

namespace {

constexpr int64_t max_dimension = int64_t{1} << 48;
constexpr uint32_t max_attributes = 64;

std::vector<Dimension> read_shape(const Napi::Value &value) {
  std::vector<Dimension> shape;
  for (const napi_value element : elements(value, "shape", MOE_MAX_RANK)) {
    const Napi::Value dimension(value.Env(), element);
    if (!dimension.IsObject()) {
      shape.push_back({integer(dimension, "shape", 0, max_dimension), ""});
      continue;
    }
    const Napi::Object symbolic = dimension.As<Napi::Object>();
    const Napi::Value factor = property(symbolic, "factor"), symbol = property(symbolic, "symbol");
    shape.push_back({integer(factor, "shape.factor", 1, max_dimension), text(symbol, "shape.symbol", 64)});
    if (shape.back().symbol.empty()) refuse("shape.symbol", "a name", symbol);
  }
  return shape;
}

AttributeList read_attributes(const Napi::Value &value) {
  const Napi::Env env = value.Env();
  AttributeList list;
  if (value.IsUndefined()) return list;
  const Napi::Object attributes = object(value, "attributes");
  napi_value names = nullptr;
  napi_check(env, napi_get_all_property_names(env, attributes, napi_key_own_only,
                                              static_cast<napi_key_filter>(napi_key_enumerable | napi_key_skip_symbols),
                                              napi_key_numbers_to_strings, &names));
  for (const napi_value key : elements(Napi::Value(env, names), "attributes", max_attributes)) {
    const std::string name = text(Napi::Value(env, key), "attributes", 64);
    napi_value raw = nullptr;
    napi_check(env, napi_get_property(env, attributes, key, &raw));
    const Napi::Value attribute(env, raw);
    switch (attribute.Type()) {
      case napi_undefined:
        break;
      case napi_number:
        list.emplace_back(name, attribute.As<Napi::Number>().DoubleValue());
        break;
      case napi_boolean:
        list.emplace_back(name, attribute.As<Napi::Boolean>().Value());
        break;
      case napi_string:
        list.emplace_back(name, text(attribute, name, 256));
        break;
      default:
        refuse(name, "a number, a boolean or a string", attribute);
    }
  }
  return list;
}

int32_t value_index(const Napi::Value &value, std::string_view argument, int32_t min) {
  return static_cast<int32_t>(integer(value, argument, min, INT32_MAX));
}

std::string optional_text(const Napi::Value &value, std::string_view argument) {
  return value.IsUndefined() ? "" : text(value, argument, 256);
}

}  // namespace

Napi::Array make_shape(Napi::Env env, const moe_type &type, std::span<const std::string> symbols) {
  Napi::Array shape = Napi::Array::New(env, static_cast<size_t>(type.rank));
  for (int32_t i = 0; i < type.rank; i++) {
    const moe_dim &dim = type.dim[i];
    if (dim.symbol < 0) {
      shape.Set(static_cast<uint32_t>(i), static_cast<double>(dim.factor));
      continue;
    }
    Napi::Object symbolic = Napi::Object::New(env);
    symbolic.Set("factor", static_cast<double>(dim.factor));
    symbolic.Set("symbol", symbols[static_cast<size_t>(dim.symbol)]);
    shape.Set(static_cast<uint32_t>(i), symbolic);
  }
  return shape;
}

std::vector<napi_property_descriptor> GraphObject::members() {
  return {method<&GraphObject::input>("input"),       method<&GraphObject::state>("state"),
          method<&GraphObject::constant>("constant"), method<&GraphObject::weight>("weight"),
          method<&GraphObject::node>("node"),         method<&GraphObject::output>("output"),
          method<&GraphObject::type>("type"),         method<&GraphObject::compile>("compile")};
}

GraphObject::GraphObject(DevicePointer device) : device_(std::move(device)) { device_->children.insert(this); }

void GraphObject::drop() noexcept {
  if (!device_) return;
  device_->children.erase(this);
  owners_ = {};
  device_.reset();
}

void GraphObject::check_alive() const {
  if (!device_) refuse_disposed("device");
}

void GraphObject::check_growing() const {
  check_alive();
  if (compiled_) throw Error(MOE_INVALID_ARGUMENT, "graph", "a graph that is still growing", "one that was compiled");
}

napi_value GraphObject::input(const Napi::CallbackInfo &info) {
  const std::string name = text(info[0], "name", 256), dtype = text(info[1], "dtype", 16);
  const std::vector<Dimension> shape = read_shape(info[2]);
  check_growing();
  return Napi::Number::New(info.Env(), graph_.add_input(name, graph_.make_type(name, dtype, shape)));
}

napi_value GraphObject::state(const Napi::CallbackInfo &info) {
  const std::string name = text(info[0], "name", 256), dtype = text(info[1], "dtype", 16);
  const std::vector<Dimension> shape = read_shape(info[2]);
  check_growing();
  return Napi::Number::New(info.Env(), graph_.add_state(name, graph_.make_type(name, dtype, shape)));
}

napi_value GraphObject::constant(const Napi::CallbackInfo &info) {
  const std::string dtype = text(info[1], "dtype", 16);
  const std::vector<Dimension> shape = read_shape(info[2]);
  check_growing();
  const BufferPointer &buffer = Buffer::from(info.Env(), info[0], "buffer").alive("buffer");
  if (buffer->device != device_)
    throw Error(MOE_INVALID_ARGUMENT, "buffer", "a buffer of the graph's device", "one of another device");
  const int32_t index = graph_.add_constant(buffer->handle, buffer->bytes, graph_.make_type("constant", dtype, shape));
  owners_.constants.push_back(buffer);
  return Napi::Number::New(info.Env(), index);
}

napi_value GraphObject::weight(const Napi::CallbackInfo &info) {
  check_growing();
  const WeightPointer &weight = Weight::from(info.Env(), info[0], "weight").alive("weight");
  if (weight->device != device_)
    throw Error(MOE_INVALID_ARGUMENT, "weight", "a weight of the graph's device", "one of another device");
  const int32_t index = graph_.add_weight(weight->handle, weight->info);
  owners_.weights.push_back(weight);
  return Napi::Number::New(info.Env(), index);
}

napi_value GraphObject::node(const Napi::CallbackInfo &info) {
  const std::string operation = text(info[0], "operation", 64);
  std::vector<int32_t> inputs;
  for (const napi_value input : elements(info[1], "inputs", MOE_MAX_INPUTS))
    inputs.push_back(value_index(Napi::Value(info.Env(), input), "inputs", -1));
  const AttributeList attributes = read_attributes(info[2]);
  const std::string label = optional_text(info[3], "name");
  check_growing();
  const std::vector<int32_t> outputs = graph_.add_node(operation, inputs, attributes, label);
  Napi::Array result = Napi::Array::New(info.Env(), outputs.size());
  for (size_t i = 0; i < outputs.size(); i++) result.Set(static_cast<uint32_t>(i), outputs[i]);
  return result;
}

napi_value GraphObject::output(const Napi::CallbackInfo &info) {
  const std::string name = text(info[0], "name", 256);
  const int32_t value = value_index(info[1], "value", 0);
  check_growing();
  graph_.add_output(name, value);
  return info.Env().Undefined();
}

napi_value GraphObject::type(const Napi::CallbackInfo &info) {
  check_alive();
  const moe_type &type = graph_.type(value_index(info[0], "value", 0));
  const std::string_view dtype = dtypes[static_cast<size_t>(type.dtype)].name;
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("dtype", Napi::String::New(info.Env(), dtype.data(), dtype.size()));
  result.Set("shape", make_shape(info.Env(), type, graph_.symbols()));
  return result;
}

napi_value GraphObject::compile(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  MaxSizes max_sizes;
  const Napi::Object sizes = object(info[0], "maxSizes");
  napi_value names = nullptr;
  napi_check(env, napi_get_all_property_names(env, sizes, napi_key_own_only,
                                              static_cast<napi_key_filter>(napi_key_enumerable | napi_key_skip_symbols),
                                              napi_key_numbers_to_strings, &names));
  for (const napi_value key : elements(Napi::Value(env, names), "maxSizes", 64)) {
    const std::string name = text(Napi::Value(env, key), "maxSizes", 64);
    napi_value raw = nullptr;
    napi_check(env, napi_get_property(env, sizes, key, &raw));
    max_sizes.emplace_back(name, integer(Napi::Value(env, raw), "maxSizes." + name, 0, max_dimension));
  }
  check_growing();
  const ScratchOf scratch = [this](const moe_graph &graph, int64_t *per_node) {
    check([&](moe_error *error) { return device_->backend.scratch(device_->handle, &graph, per_node, error); });
  };
  Plan plan(graph_, max_sizes, scratch);
  moe_program *program = nullptr;
  const moe_graph view = plan.view();
  check([&](moe_error *error) { return device_->backend.compile(device_->handle, &view, &program, error); });
  // The program alone keeps the weights from now on: the graph lives until the collector comes by.
  compiled_ = true;
  auto resource = std::make_shared<ProgramResource>(device_, program, std::move(plan), std::move(owners_));
  return Program::make(env, std::make_unique<Program>(std::move(resource)));
}

}  // namespace moe::addon
