#include "core/operations.h"

#include <algorithm>
#include <limits>

#include "moe/error.h"
#include "moe/part.h"

// One field of an attribute struct: MOE_FIELD(struct, member).
#define MOE_FIELD(type, member) offsetof(type, member)

namespace moe {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double open = std::numeric_limits<double>::quiet_NaN();  // resolved by encode_attributes
constexpr double float_max = std::numeric_limits<float>::max();
constexpr double int_max = std::numeric_limits<int32_t>::max();

constexpr std::string_view norm_kinds[] = {"rms", "layer"};
constexpr std::string_view activations[] = {"none", "relu", "gelu", "gelu_tanh", "silu", "swiglu", "geglu"};
constexpr std::string_view activation_modes[] = {"exact", "int8", "auto"};
constexpr std::string_view map_functions[] = {"add",  "multiply",  "scale", "clamp",   "relu",
                                              "gelu", "gelu_tanh", "silu",  "sigmoid", "tanh"};
constexpr std::string_view score_kinds[] = {"softmax", "sigmoid", "identity", "relu_norm", "relu"};
constexpr std::string_view choice_kinds[] = {"top_k", "non_zero", "expert"};
constexpr std::string_view convolve_activations[] = {"none", "", "", "", "silu"};
constexpr std::string_view statistics[] = {"count", "sum", "norm_sum", "gram"};

Field integer(std::string_view name, size_t offset, double fallback, double min, double max = int_max) {
  return {name, FieldKind::integer, offset, fallback, min, max};
}
Field required(Field field) {
  field.required = true;
  return field;
}
Field real(std::string_view name, size_t offset, double fallback, double min = -float_max, double max = float_max) {
  return {name, FieldKind::real, offset, fallback, min, max};
}
Field boolean(std::string_view name, size_t offset, bool fallback) {
  return {name, FieldKind::boolean, offset, fallback ? 1.0 : 0.0, 0, 1};
}
Field choice(std::string_view name, size_t offset, double fallback, std::span<const std::string_view> names) {
  return {name, FieldKind::enumeration, offset, fallback, 0, static_cast<double>(names.size() - 1), false, names};
}
Field dtype(std::string_view name, size_t offset) {
  return {name, FieldKind::dtype, offset, MOE_F32, MOE_F32, MOE_BF16};
}

const std::vector<Operation> &table() {
  static const std::vector<Operation> rows{
      {MOE_EMBED,
       "embed",
       {{"ids"}, {"table"}},
       {"y"},
       {real("scale", MOE_FIELD(moe_embed, scale), 1), dtype("dtype", MOE_FIELD(moe_embed, dtype))},
       sizeof(moe_embed),
       infer::embed,
       cost::embed},
      {MOE_NORM,
       "norm",
       {{"x"}, {"weight", true}, {"bias", true}, {"residual", true}},
       {"y", "sum"},
       {choice("kind", MOE_FIELD(moe_norm, kind), MOE_RMS, norm_kinds),
        integer("width", MOE_FIELD(moe_norm, width), 0, 0), real("epsilon", MOE_FIELD(moe_norm, epsilon), 1e-6, 0)},
       sizeof(moe_norm),
       infer::norm,
       cost::elementwise},
      {MOE_LINEAR,
       "linear",
       {{"x"}, {"weight"}, {"tokenOf", true}, {"offsets", true}, {"residual", true}},
       {"y"},
       {choice("activation", MOE_FIELD(moe_linear, activation), MOE_NONE, activations),
        choice("mode", MOE_FIELD(moe_linear, mode), MOE_EXACT, activation_modes),
        dtype("dtype", MOE_FIELD(moe_linear, dtype))},
       sizeof(moe_linear),
       infer::linear,
       cost::linear},
      {MOE_ROTATE,
       "rotate",
       {{"x"}, {"positions"}, {"frequencies"}},
       {"y"},
       {required(integer("heads", MOE_FIELD(moe_rotate, heads), 0, 1)),
        boolean("interleaved", MOE_FIELD(moe_rotate, interleaved), false),
        real("scale", MOE_FIELD(moe_rotate, scale), 1)},
       sizeof(moe_rotate),
       infer::rotate,
       cost::elementwise},
      {MOE_ATTENTION,
       "attention",
       {{"q"}, {"k"}, {"v"}, {"positions"}, {"sequence"}, {"lengths"}, {"pages"}, {"kCache"}, {"vCache"}},
       {"y"},
       {required(integer("heads", MOE_FIELD(moe_attention, heads), 0, 1)),
        integer("kvHeads", MOE_FIELD(moe_attention, kv_heads), 0, 0),
        boolean("causal", MOE_FIELD(moe_attention, causal), true),
        integer("window", MOE_FIELD(moe_attention, window), 0, 0), real("scale", MOE_FIELD(moe_attention, scale), 0, 0),
        real("softCap", MOE_FIELD(moe_attention, soft_cap), 0, 0)},
       sizeof(moe_attention),
       infer::attention,
       cost::attention,
       {7, 8}},
      {MOE_MAP,
       "map",
       {{"a"}, {"b", true}},
       {"y"},
       {required(choice("function", MOE_FIELD(moe_map, function), 0, map_functions)),
        real("alpha", MOE_FIELD(moe_map, alpha), open, -infinity, infinity),
        real("beta", MOE_FIELD(moe_map, beta), open, -infinity, infinity)},
       sizeof(moe_map),
       infer::map,
       cost::elementwise},
      {MOE_ROUTE,
       "route",
       {{"logits", true}, {"bias", true}, {"groupOf", true}, {"ids", true}, {"gates", true}},
       {"ids", "gates", "rowOf", "tokenOf", "gateOf", "offsets"},
       {choice("score", MOE_FIELD(moe_route, score), MOE_SOFTMAX, score_kinds),
        required(integer("topK", MOE_FIELD(moe_route, top_k), 0, 1)),
        boolean("renormalize", MOE_FIELD(moe_route, renormalize), false),
        boolean("coalesce", MOE_FIELD(moe_route, coalesce), true),
        required(integer("experts", MOE_FIELD(moe_route, experts), 0, 1)),
        integer("slots", MOE_FIELD(moe_route, slots), 0, 0),
        integer("expertGroups", MOE_FIELD(moe_route, expert_groups), 1, 1),
        integer("keptGroups", MOE_FIELD(moe_route, kept_groups), 1, 1), real("scale", MOE_FIELD(moe_route, scale), 1),
        choice("choice", MOE_FIELD(moe_route, choice), MOE_CHOICE_TOP_K, choice_kinds),
        integer("capacity", MOE_FIELD(moe_route, capacity), 0, 0),
        real("epsilon", MOE_FIELD(moe_route, epsilon), 1e-6, 0)},
       sizeof(moe_route),
       infer::route,
       cost::elementwise},
      {MOE_COMBINE,
       "combine",
       {{"rows"}, {"rowOf"}, {"gateOf"}, {"shared", true}, {"sharedGate", true}, {"residual", true}, {"onto", true}},
       {"y"},
       {dtype("dtype", MOE_FIELD(moe_combine, dtype))},
       sizeof(moe_combine),
       infer::combine,
       cost::combine},
      {MOE_CONVOLVE,
       "convolve",
       {{"x"}, {"weight"}, {"bias", true}, {"sequence"}, {"positions"}, {"state"}},
       {"y"},
       {choice("activation", MOE_FIELD(moe_convolve, activation), MOE_NONE, convolve_activations)},
       sizeof(moe_convolve),
       infer::convolve,
       cost::convolve,
       {5}},
      {MOE_TAKE, "take", {{"x"}, {"index"}}, {"y"}, {}, sizeof(moe_take), infer::take, cost::take},
      {MOE_SCORE,
       "score",
       {{"logits"}, {"ids", true}},
       {"logProbability", "topIds", "topLogProbabilities"},
       {integer("topK", MOE_FIELD(moe_score, top_k), 0, 0)},
       sizeof(moe_score),
       infer::score,
       cost::elementwise},
      {MOE_ACCUMULATE,
       "accumulate",
       {{"a"}, {"b", true}, {"offsets", true}, {"gateOf", true}, {"state"}},
       {},
       {required(choice("statistic", MOE_FIELD(moe_accumulate, statistic), 0, statistics)),
        integer("gatePower", MOE_FIELD(moe_accumulate, gate_power), 0, 0, 2)},
       sizeof(moe_accumulate),
       infer::accumulate,
       cost::accumulate,
       {4}},
  };
  return rows;
}

}  // namespace

std::span<const Operation> operations() { return table(); }

const Operation &find_operation(std::string_view name) {
  std::string names;
  for (const Operation &operation : table()) {
    if (operation.name == name) return operation;
    names += (names.empty() ? "" : ", ") + std::string(operation.name);
  }
  throw Error(MOE_INVALID_ARGUMENT, "operation", names, quote(name));
}

const Operation &operation_of(int32_t op) {
  if (op < 0 || op >= MOE_OP_COUNT) throw Error(MOE_INTERNAL, "operation", "a known operation", std::to_string(op));
  return table()[static_cast<size_t>(op)];
}

WeightInfo weight_info(const moe_weight_spec &spec, size_t packed_bytes) {
  WeightInfo info{spec.in, spec.out, spec.slots, spec.gated != 0};
  for (int32_t i = 0; i < spec.part_count; ++i) {
    const moe_part &part = spec.parts[i];
    info.integer = info.integer || integer_store(part.store);
    if (part.kind == MOE_PART_BIAS) {
      info.bias = true;
      continue;
    }
    double sum = 0;
    for (int32_t s = 0; s < spec.slots; ++s)
      sum += static_cast<double>(part_rows(part, s, spec.out)) * static_cast<double>(part_columns(part, s, spec.in));
    info.products += static_cast<int64_t>(std::min(sum / spec.slots, 0x1p60));
  }
  info.packed_bytes = static_cast<int64_t>(packed_bytes);
  return info;
}

}  // namespace moe
