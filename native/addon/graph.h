// NativeGraph: assembly of a program through the core, which checks every value and node as it is added.
// States: growing, compiled (its work is done), disposed with its device.
#pragma once
#include <memory>
#include <vector>

#include "addon/resources.h"
#include "addon/wrapped.h"
#include "core/graph.h"

namespace moe::addon {

// What a graph and its programs keep alive.
struct GraphOwners {
  std::vector<WeightPointer> weights;
  std::vector<BufferPointer> constants;
};

class GraphObject final : public Wrapped<GraphObject>, public Child {
 public:
  static constexpr ClassId id = ClassId::graph;
  static constexpr const char *class_name = "NativeGraph";
  static std::vector<napi_property_descriptor> members();

  explicit GraphObject(DevicePointer device);
  ~GraphObject() override { GraphObject::drop(); }
  void drop() noexcept override;

 private:
  void check_alive() const;
  void check_growing() const;
  napi_value input(const Napi::CallbackInfo &info);
  napi_value state(const Napi::CallbackInfo &info);
  napi_value constant(const Napi::CallbackInfo &info);
  napi_value weight(const Napi::CallbackInfo &info);
  napi_value node(const Napi::CallbackInfo &info);
  napi_value output(const Napi::CallbackInfo &info);
  napi_value type(const Napi::CallbackInfo &info);
  napi_value compile(const Napi::CallbackInfo &info);

  DevicePointer device_;
  Graph graph_;
  GraphOwners owners_;
  bool compiled_ = false;
};

// [number | {factor, symbol}, …]
Napi::Array make_shape(Napi::Env env, const moe_type &type, std::span<const std::string> symbols);

}  // namespace moe::addon
