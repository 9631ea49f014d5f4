#include "program.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <string>

#include "convert.h"
#include "linear/linear.h"
#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/error.h"

namespace moe::cpu {
namespace {

struct OpInfo {
  std::string_view name;
  Kernel Kernels::*kernel;  // null: linear
  size_t attribute_bytes;
  uint32_t stored_inputs;  // bit i: input i keeps its stored dtype
  uint32_t stored_outputs;
  bool partial;  // rows of y may be left as they are
};
constexpr std::array<OpInfo, MOE_OP_COUNT> operations{{
    {"embed", &Kernels::embed, sizeof(moe_embed), 1u << 1, 0, false},
    {"norm", &Kernels::norm, sizeof(moe_norm), 0, 0, false},
    {"linear", nullptr, sizeof(moe_linear), 0, 0, true},
    {"rotate", &Kernels::rotate, sizeof(moe_rotate), 0, 0, false},
    {"attention", &Kernels::attention, sizeof(moe_attention), 3u << 7, 0, false},
    {"map", &Kernels::map, sizeof(moe_map), 0, 0, false},
    {"route", &Kernels::route, sizeof(moe_route), 0, 0, false},
    {"combine", &Kernels::combine, sizeof(moe_combine), 0, 0, true},
    {"convolve", &Kernels::convolve, sizeof(moe_convolve), 0, 0, false},
    {"take", &Kernels::take, sizeof(moe_take), 1u << 0, 1u << 0, false},
    {"score", &Kernels::score, sizeof(moe_score), 0, 0, false},
    {"accumulate", &Kernels::accumulate, sizeof(moe_accumulate), 0, 0, false},
}};

void internal(bool good, std::string_view argument, std::string_view expected, int64_t received) {
  if (!good) throw Error(MOE_INVALID_ARGUMENT, argument, expected, std::to_string(received));
}

int64_t element_bytes(int32_t dtype) { return dtype_bytes(dtype, 1); }

// Sizes of an operand when its symbol is `size`.
Operand shaped(const moe_type &type, int64_t size) {
  Operand operand;
  operand.dtype = type.dtype;
  operand.rank = type.rank;
  operand.width = 1;
  operand.rows = 1;
  for (int32_t d = 0; d < type.rank; ++d) {
    const int64_t extent = checked_multiply(type.dim[d].factor, type.dim[d].symbol < 0 ? 1 : size, "shape");
    internal(extent >= 0, "shape", "0 or more", extent);
    operand.dim[d] = extent;
    (d == 0 ? operand.rows : operand.width) = d == 0 ? extent : checked_multiply(operand.width, extent, "shape");
  }
  return operand;
}

}  // namespace

Program::Program(std::shared_ptr<Device> device, const moe_graph &graph)
    : device_(std::move(device)),
      max_sizes_(graph.max_sizes, graph.max_sizes + graph.symbol_count),
      binding_count_(graph.binding_count) {
  for (int32_t n = 0; n < graph.node_count; ++n) {
    const moe_node &node = graph.nodes[n];
    internal(node.op >= 0 && node.op < MOE_OP_COUNT, "op", "an operation", node.op);
    const OpInfo &info = operations[static_cast<size_t>(node.op)];
    internal(node.attribute_bytes == info.attribute_bytes, info.name,
             "attributes of " + std::to_string(info.attribute_bytes) + " bytes",
             static_cast<int64_t>(node.attribute_bytes));
    NodePlan plan;
    plan.op = node.op;
    plan.kernel = info.kernel ? device_->isa().kernels->*info.kernel : nullptr;
    plan.scratch_offset = node.scratch_offset;
    const auto *const attributes = static_cast<const std::byte *>(node.attributes);
    plan.attributes.assign(attributes, attributes + node.attribute_bytes);
    plan.context.pool = &Pool::shared();
    plan.context.threads = device_->threads();

    std::vector<int64_t> convert_bytes;
    const auto add = [&](int32_t index, int place, bool output) {
      if (index < 0) return;
      internal(index < graph.value_count, info.name, "a value of the graph", index);
      const moe_value &value = graph.values[index];
      if (value.role == MOE_ROLE_WEIGHT) {
        internal(value.weight != nullptr, "weight", "a packed bank", 0);
        plan.bank = &reinterpret_cast<const Weight *>(value.weight)->bank;
        return;
      }
      const moe_dim &first = value.type.dim[0];
      internal(first.symbol < graph.symbol_count, "symbol", "one of the graph's symbols", first.symbol);
      Operand operand = shaped(value.type, first.symbol < 0 ? 1 : max_sizes_[static_cast<size_t>(first.symbol)]);
      const int64_t stored_bytes = checked_multiply(operand.size(), element_bytes(operand.dtype), "shape");
      OperandPlan at;
      at.place = place;
      at.output = output;
      at.factor = value.type.rank > 0 ? first.factor : 1;
      at.symbol = value.type.rank > 0 ? first.symbol : -1;
      at.stored = operand.dtype;
      if (value.role == MOE_ROLE_CONSTANT) {
        internal(value.constant != nullptr, "constant", "a buffer", 0);
        const Memory &memory = reinterpret_cast<const Buffer *>(value.constant)->memory;
        at.fixed = memory.data();
        at.fixed_bytes = static_cast<int64_t>(memory.bytes());
        internal(stored_bytes <= at.fixed_bytes, "constant", "a buffer of " + std::to_string(stored_bytes) + " bytes",
                 at.fixed_bytes);
      } else if (value.role == MOE_ROLE_INNER) {
        at.arena_offset = value.arena_offset;
        arena_bytes_ =
            std::max(arena_bytes_, checked_add(std::max<int64_t>(0, at.arena_offset), stored_bytes, "arena"));
      } else {
        internal(value.binding >= 0 && value.binding < graph.binding_count, "binding", "one of the bindings",
                 value.binding);
        at.binding = value.binding;
      }
      const bool stored = ((output ? info.stored_outputs : info.stored_inputs) >> place & 1u) != 0;
      if (dtype_float(operand.dtype) && operand.dtype != MOE_F32 && !stored) {
        operand.dtype = MOE_F32;
        at.convert_offset = 0;
        at.load = !output || info.partial;
        at.keep = output;
        convert_bytes.push_back(checked_multiply(operand.size(), 4, "shape"));
      }
      (output ? plan.context.output : plan.context.input)[place] = operand;
      plan.operands.push_back(at);
    };
    for (int i = 0; i < MOE_MAX_INPUTS; ++i) add(node.input[i], i, false);
    for (int i = 0; i < MOE_MAX_OUTPUTS; ++i) add(node.output[i], i, true);

    plan.context.attributes = plan.attributes.data();
    if (plan.op == MOE_LINEAR) {
      internal(plan.bank != nullptr, "weight", "a packed bank", 0);
      plan.kernel_scratch = linear::scratch(*device_->isa().linear, *plan.bank, plan.context);
    } else {
      plan.kernel_scratch = operation_scratch(plan.op, plan.context);
    }
    int64_t end = align_up(plan.kernel_scratch);
    size_t next = 0;
    for (OperandPlan &operand : plan.operands) {
      if (operand.convert_offset < 0) continue;
      operand.convert_offset = end;
      end = checked_add(end, align_up(convert_bytes[next++]), "scratch");
    }
    plan.scratch = end;
    if (end > 0 && plan.scratch_offset >= 0) {
      arena_bytes_ = std::max(arena_bytes_, checked_add(plan.scratch_offset, end, "arena"));
    }
    nodes_.push_back(std::move(plan));
  }
  for (NodePlan &node : nodes_) node.context.attributes = node.attributes.data();
}

void Program::run_node(const NodePlan &node, const moe_run &run, std::byte *arena) const {
  Context context = node.context;
  std::byte *const scratch = node.scratch > 0 ? arena + node.scratch_offset : nullptr;
  context.scratch = scratch;
  context.cancel = run.cancel;
  std::array<std::byte *, MOE_MAX_INPUTS + MOE_MAX_OUTPUTS> stored;
  size_t index = 0;
  for (const OperandPlan &at : node.operands) {
    Operand &operand = (at.output ? context.output : context.input)[at.place];
    if (at.symbol >= 0) operand.rows = operand.dim[0] = at.factor * run.sizes[at.symbol];
    std::byte *data;
    if (at.binding >= 0) {
      const Memory &memory = reinterpret_cast<const Buffer *>(run.bindings[at.binding])->memory;
      const int64_t needed = operand.size() * element_bytes(at.stored);
      internal(needed <= static_cast<int64_t>(memory.bytes()), "bindings",
               "a buffer of " + std::to_string(needed) + " bytes", static_cast<int64_t>(memory.bytes()));
      data = memory.data();
    } else {
      data = at.fixed ? at.fixed : arena + at.arena_offset;
    }
    stored[index++] = data;
    operand.data = data;
    if (at.convert_offset >= 0) {
      float *const converted = reinterpret_cast<float *>(scratch + at.convert_offset);
      if (at.load) widen_floats(at.stored, data, converted, operand.size(), context.threads);
      operand.data = converted;
    }
  }
  if (node.bank) {
    linear::run(*device_->isa().linear, *node.bank, context);
  } else {
    node.kernel(context);
  }
  index = 0;
  for (const OperandPlan &at : node.operands) {
    std::byte *const data = stored[index++];
    if (!at.keep) continue;
    const Operand &operand = context.output[at.place];
    narrow_floats(at.stored, operand.as<float>(), data, operand.size(), context.threads);
  }
}

void Program::run(const moe_run &run) const {
  for (size_t i = 0; i < max_sizes_.size(); ++i) {
    if (run.sizes[i] < 0 || run.sizes[i] > max_sizes_[i]) {
      throw Error(MOE_INVALID_ARGUMENT, "sizes", "0 to " + std::to_string(max_sizes_[i]), std::to_string(run.sizes[i]));
    }
  }
  for (int32_t i = 0; i < binding_count_; ++i) internal(run.bindings[i] != nullptr, "bindings", "a buffer for each", i);
  std::byte *arena = nullptr;
  if (run.arena) {
    const Memory &memory = reinterpret_cast<const Buffer *>(run.arena)->memory;
    arena = memory.data();
    internal(arena_bytes_ <= static_cast<int64_t>(memory.bytes()), "arena",
             "at least " + std::to_string(arena_bytes_) + " bytes", static_cast<int64_t>(memory.bytes()));
  } else {
    internal(arena_bytes_ == 0, "arena", "at least " + std::to_string(arena_bytes_) + " bytes", 0);
  }
  const auto cancelled = [&] { return run.cancel && __atomic_load_n(run.cancel, __ATOMIC_RELAXED) != 0; };
  const Error aborted(MOE_ABORTED, "", "no cancel", "a cancel during the run");
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (cancelled()) throw aborted;
    if (!run.profile) {
      run_node(nodes_[i], run, arena);
      continue;
    }
    const auto start = std::chrono::steady_clock::now();
    run_node(nodes_[i], run, arena);
    run.profile[i] =
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
  }
  if (cancelled()) throw aborted;
}

}  // namespace moe::cpu
