// The operation table: one row an operation, with its names for JavaScript, its operands, its attributes, the rule that
// gives the types of its outputs, and the count of its bytes and operations. What each computes: moe/operations.h.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/types.h"
#include "moe/backend.h"
#include "moe/operations.h"

namespace moe {

enum class FieldKind { integer, real, boolean, enumeration, dtype };

// One attribute. `fallback` (an enum's or dtype's number) is taken where JavaScript gives none, unless `required`.
struct Field {
  std::string_view name;
  FieldKind kind;
  size_t offset;
  double fallback, min, max;
  bool required = false;
  std::span<const std::string_view> names = {};  // enumeration: value i is names[i]
};

struct Slot {
  std::string_view name;
  bool optional = false;
};

// What the core keeps of a bank.
struct WeightInfo {
  int64_t in = 0, out = 0;
  int32_t slots = 1;
  bool gated = false;
  bool integer = false;  // a part is stored as I8 or I4
  bool bias = false;
  int64_t packed_bytes = 0;  // all slots, as weight_finish reported
  int64_t products = 0;      // multiplications of one row of x, in the mean over the slots
};
WeightInfo weight_info(const moe_weight_spec &spec, size_t packed_bytes);

// An operand as `infer` and `cost` see it; absent operands are null pointers.
struct Operand {
  moe_type type{};
  int32_t role = MOE_ROLE_INNER;
  const WeightInfo *weight = nullptr;  // for MOE_ROLE_WEIGHT
};

struct Operation;

// The state of one call of `infer`: it checks inputs and writes outputs; it may complete attributes that were left open
// (route.slots, norm.width, attention.kvHeads, attention.scale: 0).
struct Inference {
  const Operation &operation;
  std::array<const Operand *, MOE_MAX_INPUTS> input{};
  void *attributes;
  std::span<const std::string> symbols;
  std::array<moe_type, MOE_MAX_OUTPUTS> output{};
  std::array<bool, MOE_MAX_OUTPUTS> present{};  // false: the inputs rule this output out
};

struct Cost {
  int64_t bytes = 0, operations = 0;  // a multiply-add counts as two operations
};

// Operands and outputs of one node at given sizes[symbol]; entries of absent operands are null.
struct CostContext {
  std::array<const Operand *, MOE_MAX_INPUTS> input{};
  std::array<const moe_type *, MOE_MAX_OUTPUTS> output{};
  const void *attributes;
  std::span<const int64_t> sizes;
};

struct Operation {
  moe_op op;
  std::string_view name;
  std::vector<Slot> inputs;
  std::vector<std::string_view> outputs;
  std::vector<Field> fields;
  size_t attribute_bytes;
  void (*infer)(Inference &);
  Cost (*cost)(const CostContext &);
  std::vector<int32_t> written_inputs = {};  // states that the operation updates
};

// All operations, in order of moe_op.
std::span<const Operation> operations();
// INVALID_ARGUMENT "operation" for a name that is not in the table.
const Operation &find_operation(std::string_view name);
const Operation &operation_of(int32_t op);

// A value as JavaScript gave it. Attributes that are `undefined` are left out by the caller.
using AttributeValue = std::variant<double, bool, std::string>;
using AttributeList = std::vector<std::pair<std::string, AttributeValue>>;

// The attribute struct of the operation. INVALID_ARGUMENT "linear.mode" with the legal range and what came; unknown
// names too.
std::vector<std::byte> encode_attributes(const Operation &operation, const AttributeList &attributes);

// Rules of the table, in infer.cc, infer_routing.cc and cost.cc.
namespace infer {
void embed(Inference &);
void norm(Inference &);
void linear(Inference &);
void rotate(Inference &);
void attention(Inference &);
void map(Inference &);
void route(Inference &);
void combine(Inference &);
void convolve(Inference &);
void take(Inference &);
void score(Inference &);
void accumulate(Inference &);
}  // namespace infer
namespace cost {
Cost elementwise(const CostContext &);  // reads all, writes all, a few operations an element
Cost embed(const CostContext &);
Cost linear(const CostContext &);
Cost attention(const CostContext &);
Cost combine(const CostContext &);
Cost convolve(const CostContext &);
Cost take(const CostContext &);
Cost accumulate(const CostContext &);
}  // namespace cost

}  // namespace moe
