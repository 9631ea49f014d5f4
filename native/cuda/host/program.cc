#include <algorithm>
#include <array>
#include <string>

#include "host/fill_frame.h"
#include "host/fusion.h"
#include "launcher.h"
#include "moe/dtype.h"
#include "objects.h"

namespace moe::cuda {
namespace {

constexpr std::array<Operation, MOE_OP_COUNT> operations{{
    {"embed", sizeof(moe_embed), scratch_embed, launch_embed},
    {"norm", sizeof(moe_norm), scratch_norm, launch_norm},
    {"linear", sizeof(moe_linear), scratch_linear, launch_linear},
    {"rotate", sizeof(moe_rotate), scratch_rotate, launch_rotate},
    {"attention", sizeof(moe_attention), scratch_attention, launch_attention},
    {"map", sizeof(moe_map), scratch_map, launch_map},
    {"route", sizeof(moe_route), scratch_route, launch_route},
    {"combine", sizeof(moe_combine), scratch_combine, launch_combine},
    {"convolve", sizeof(moe_convolve), scratch_convolve, launch_convolve},
    {"take", sizeof(moe_take), scratch_take, launch_take},
    {"score", sizeof(moe_score), scratch_score, launch_score},
    {"accumulate", sizeof(moe_accumulate), scratch_accumulate, launch_accumulate},
}};

void expect(bool holds, std::string_view argument, const std::string &expected, int64_t received) {
  if (!holds) throw Error(MOE_INVALID_ARGUMENT, argument, expected, std::to_string(received));
}

}  // namespace

const Operation &operation(int32_t op) {
  if (op < 0 || op >= MOE_OP_COUNT)
    throw Error(MOE_UNSUPPORTED, "op", "an operation from 0 to " + std::to_string(MOE_OP_COUNT - 1),
                std::to_string(op));
  return operations[static_cast<size_t>(op)];
}

Instance::Instance(const std::shared_ptr<Device> &device, size_t bindings)
    : frame_(device, sizeof(Frame) + bindings * sizeof(std::byte *)) {}
Instance::~Instance() {
  if (graph) cudaGraphExecDestroy(graph);
}

Operand Program::operand(const moe_graph &graph, int32_t index) {
  Operand operand;
  if (index < 0) return operand;
  expect(index < graph.value_count, "node", "a value of the graph", index);
  const moe_value &value = graph.values[index];
  if (value.role == MOE_ROLE_WEIGHT) {
    const auto *const weight = reinterpret_cast<const Weight *>(value.weight);
    expect(weight && weight->bank.finished(), "weight", "a finished weight", 0);
    operand.rank = 1;
    operand.bank = &weight->bank;
    return operand;
  }
  expect(dtype_known(value.type.dtype), "dtype", "a known dtype", value.type.dtype);
  expect(value.type.rank >= 1 && value.type.rank <= MOE_MAX_RANK, "rank", "1 to 4", value.type.rank);
  operand.dtype = value.type.dtype;
  operand.rank = value.type.rank;
  int64_t count = 64;  // as bits of the widest dtype, so that bytes cannot overflow either
  for (size_t d = 0; d < static_cast<size_t>(operand.rank); ++d) {
    const moe_dim &dim = value.type.dim[d];
    expect(dim.symbol < graph.symbol_count && (d == 0 || dim.symbol < 0), "symbol", "one of the graph's", dim.symbol);
    expect(dim.factor >= 0, "shape", "a dimension of at least 0", dim.factor);
    const int64_t size = dim.symbol < 0 ? 1 : graph.max_sizes[dim.symbol];
    operand.dim[d] = checked_multiply(dim.factor, size, "shape");
    count = checked_multiply(count, operand.dim[d], "shape");
  }
  Place &place = operand.place;
  place.factor = value.type.dim[0].factor;
  place.symbol = value.type.dim[0].symbol;
  place.dtype = operand.dtype;
  const int64_t bytes = dtype_bytes(operand.dtype, operand.elements());
  if (value.role == MOE_ROLE_CONSTANT) {
    expect(value.constant != nullptr, "constant", "a buffer", 0);
    const Memory &memory = reinterpret_cast<const Buffer *>(value.constant)->memory;
    expect(bytes <= static_cast<int64_t>(memory.bytes()), "constant", std::to_string(bytes) + " bytes",
           static_cast<int64_t>(memory.bytes()));
    place.base = Place::fixed;
    place.offset = static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory.data()));
  } else if (value.role == MOE_ROLE_INNER) {
    place.base = 0;
    place.offset = value.arena_offset;
    if (value.arena_offset >= 0) arena_bytes_ = std::max(arena_bytes_, checked_add(value.arena_offset, bytes, "arena"));
  } else {
    expect(value.binding >= 0 && value.binding < binding_count_, "binding", "one of the bindings", value.binding);
    place.base = 1 + value.binding;
    const auto at = static_cast<size_t>(value.binding);
    binding_symbol_[at] = place.symbol;
    binding_factor_[at] = place.symbol < 0 ? bytes : dtype_bytes(operand.dtype, place.factor * operand.width());
  }
  return operand;
}

Program::Program(std::shared_ptr<Device> device, const moe_graph &graph)
    : device_(std::move(device)), binding_count_(graph.binding_count) {
  expect(graph.value_count >= 0 && graph.node_count >= 0 && graph.symbol_count >= 0 && graph.binding_count >= 0,
         "graph", "counts of at least 0", -1);
  if (graph.symbol_count > max_symbols)
    throw Error(MOE_UNSUPPORTED, "symbols", "at most " + std::to_string(max_symbols),
                std::to_string(graph.symbol_count));
  max_sizes_.assign(graph.max_sizes, graph.max_sizes + graph.symbol_count);
  binding_symbol_.assign(static_cast<size_t>(binding_count_), -1);
  binding_factor_.assign(static_cast<size_t>(binding_count_), 0);
  for (int32_t i = 0; i < graph.value_count; ++i) {
    const moe_value &value = graph.values[i];
    if (value.role == MOE_ROLE_WEIGHT && value.weight)
      holds_.push_back(reinterpret_cast<Weight *>(value.weight)->shared_from_this());
    if (value.role == MOE_ROLE_CONSTANT && value.constant)
      holds_.push_back(reinterpret_cast<Buffer *>(value.constant)->shared_from_this());
  }
  for (int32_t n = 0; n < graph.node_count; ++n) {
    const moe_node &from = graph.nodes[n];
    const Operation &info = operation(from.op);
    expect(from.attributes != nullptr && from.attribute_bytes == info.attribute_bytes, info.name,
           "attributes of " + std::to_string(info.attribute_bytes) + " bytes",
           static_cast<int64_t>(from.attribute_bytes));
    Node node;
    node.op = from.op;
    const auto *const bytes = static_cast<const std::byte *>(from.attributes);
    node.attributes.assign(bytes, bytes + from.attribute_bytes);
    for (size_t i = 0; i < node.input.size(); ++i) node.input[i] = operand(graph, from.input[i]);
    for (size_t i = 0; i < node.output.size(); ++i) node.output[i] = operand(graph, from.output[i]);
    nodes_.push_back(std::move(node));
  }
  fuse(*device_, graph, nodes_);
  for (size_t n = 0; n < nodes_.size(); ++n) take_scratch(nodes_[n], graph.nodes[n].scratch_offset);
}

void Program::take_scratch(Node &node, int64_t offset) {
  const int64_t bytes = node.absorbed ? 0 : operation(node.op).scratch(*device_, node);
  scratch_.push_back(bytes);
  if (bytes == 0) return;
  node.scratch.base = 0;
  node.scratch.offset = offset;
  node.scratch.factor = bytes;
  if (offset >= 0) arena_bytes_ = std::max(arena_bytes_, checked_add(offset, bytes, "arena"));
}

void Program::check_run(const moe_run &run) const {
  for (size_t i = 0; i < max_sizes_.size(); ++i)
    expect(run.sizes[i] >= 0 && run.sizes[i] <= max_sizes_[i], "sizes", "0 to " + std::to_string(max_sizes_[i]),
           run.sizes[i]);
  const int64_t arena = run.arena ? static_cast<int64_t>(reinterpret_cast<Buffer *>(run.arena)->memory.bytes()) : 0;
  expect(arena_bytes_ <= arena, "arena", "at least " + std::to_string(arena_bytes_) + " bytes", arena);
  for (size_t i = 0; i < static_cast<size_t>(binding_count_); ++i) {
    if (!run.bindings[i]) throw Error(MOE_INVALID_ARGUMENT, "bindings", "a buffer for each", "none");
    const int64_t size = binding_symbol_[i] < 0 ? 1 : run.sizes[binding_symbol_[i]];
    const int64_t needed = checked_multiply(binding_factor_[i], size, "bindings");
    const auto held = static_cast<int64_t>(reinterpret_cast<Buffer *>(run.bindings[i])->memory.bytes());
    expect(needed <= held, "bindings", "a buffer of " + std::to_string(needed) + " bytes", held);
  }
}

Instance &Program::instance(const Queue &queue) {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<Instance> &instance = instances_[&queue];
  if (!instance) instance = std::make_unique<Instance>(device_, static_cast<size_t>(binding_count_));
  return *instance;
}

void Program::launch(const Node &node, Launcher &launcher) const {
  if (!node.absorbed) operation(node.op).launch(node, launcher);
}

void Program::run(Queue &queue, const moe_run &run, std::vector<Event> &marks) {
  Instance &own = instance(queue);
  Launcher launcher(*device_, queue.stream, own.frame());
  const int32_t addresses = 1 + binding_count_;
  for (FrameValues values{{}, {}, 0, 0}; values.first < addresses; values.first += values.count) {
    std::copy_n(run.sizes, max_sizes_.size(), values.size);
    values.count = std::min(addresses - values.first, FrameValues::most);
    for (int32_t i = 0; i < values.count; ++i) {
      const int32_t index = values.first + i;
      moe_buffer *const buffer = index == 0 ? run.arena : run.bindings[index - 1];
      values.address[i] = buffer ? reinterpret_cast<Buffer *>(buffer)->memory.data() : nullptr;
    }
    fill_frame(launcher, values);
  }
  if (run.profile) {
    for (const Node &node : nodes_) {
      MOE_CUDA(cudaEventRecord(marks.emplace_back().get(), queue.stream));
      launch(node, launcher);
    }
    MOE_CUDA(cudaEventRecord(marks.emplace_back().get(), queue.stream));
    return;
  }
  if (!own.graph) {
    MOE_CUDA(cudaStreamBeginCapture(queue.stream, cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    moe_error error{};
    const int code = guarded(&error, [&] {
      for (const Node &node : nodes_) launch(node, launcher);
    });
    const cudaError_t ended = cudaStreamEndCapture(queue.stream, &graph);
    if (code != MOE_OK) {
      if (graph) cudaGraphDestroy(graph);
      throw Error(error);
    }
    check_cuda(ended, "cudaStreamEndCapture");
    const cudaError_t made = cudaGraphInstantiate(&own.graph, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(made, "cudaGraphInstantiate");
  }
  MOE_CUDA(cudaGraphLaunch(own.graph, queue.stream));
}

}  // namespace moe::cuda
