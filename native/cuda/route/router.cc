// The router whose product route takes up: which, and how it is cut.
#include "route/router.h"

#include <algorithm>

#include "host/device.h"
#include "host/fusion.h"
#include "linear/bank.h"
#include "linear/parts.h"
#include "linear/weight_fragment.h"

namespace moe::cuda {
namespace {

constexpr int64_t most_experts = 512, most_slots = 512;  // whose counts and logits fit the shared memory of one block
constexpr int64_t most_part_bytes = 128 << 10;           // that the last block reads, at about 100 bytes a nanosecond

// One matrix of floats and at most a bias.
bool plain(const Bank &bank) {
  const bool more = bank.factor_in().present() || bank.factor_out().present() || bank.kept_rows().present() ||
                    bank.sparse().present();
  if (more || !bank.base().present() || bank.gated() || bank.slots() != 1) return false;
  const PackedSlot &slot = bank.base().slots().front();
  return !bank.integer() && bank.base().view().slot_of == nullptr && slot.rows == bank.out() &&
         slot.columns == bank.in();
}

bool can_absorb(const Node &linear, const Node &route) {
  const Operand &x = linear.input[x_input], &y = linear.output[0];
  const Bank *const bank = linear.input[weight_input].bank;
  if (bank == nullptr || linear.input[token_of_input] || linear.input[offsets_input] || linear.input[residual_input])
    return false;
  const auto &of_linear = linear.as<moe_linear>();
  const auto &of_route = route.as<moe_route>();
  const bool given = route.input[3] || route.input[4];
  return !given && of_linear.activation == MOE_NONE && of_linear.mode != MOE_INT8 && y.dtype == MOE_F32 &&
         y.rows() <= most_router_tokens && x.rows() == y.rows() && plain(*bank) && bank->in() == x.width() &&
         bank->out() == y.width() && y.width() == of_route.experts && x.width() % unit_columns == 0 &&
         of_route.experts <= most_experts && of_route.slots <= most_slots;
}

}  // namespace

// A row's sum has another order than in a linear of its own, which more tokens would take.
void fuse_router(const FusionContext &context) {
  if (context.device.batch_invariant()) return;
  const moe_graph &graph = context.graph;
  for (int32_t n = 1; n < graph.node_count; ++n) {
    const moe_node &before = graph.nodes[n - 1];
    const int32_t logits = graph.nodes[n].input[0];
    if (graph.nodes[n].op != MOE_ROUTE || before.op != MOE_LINEAR || logits < 0 || before.output[0] != logits) continue;
    if (!context.readers.only_as(logits, 0) || context.readers.of(logits).size() != 1) continue;
    // x must still be there while route runs, and apart from the scratch of route.
    const int32_t x = before.input[x_input];
    if (graph.values[x].role == MOE_ROLE_INNER && context.readers.of(x).back().node <= n) continue;
    Node &linear = context.nodes[static_cast<size_t>(n) - 1], &route = context.nodes[static_cast<size_t>(n)];
    if (!can_absorb(linear, route)) continue;
    linear.absorbed = true;
    route.product = &linear;
  }
}

RouterArguments router_arguments(const Device &device, const Node &linear) {
  const Operand &x = linear.input[x_input];
  const Bank &bank = *linear.input[weight_input].bank;
  const PackedSlot &slot = bank.base().slots().front();
  RouterArguments a{};
  a.x = x.place;
  a.width = x.width();
  a.weight = bank.base().view().chunks + slot.chunk * warp_lanes;
  a.store = bank.base().view().store;
  a.panels = slot.panels;
  a.bias = bank.bias();
  // Two blocks a multiprocessor; a unit or more a warp.
  const int64_t row_bytes = std::max<int64_t>(1, x.rows() * a.panels * panel_rows * int64_t{sizeof(float)});
  const int64_t splits = std::min({2 * int64_t{device.multiprocessors()} / a.panels,
                                   a.width / (unit_columns * router_warps), most_part_bytes / row_bytes});
  a.splits = static_cast<int32_t>(std::max<int64_t>(1, splits));
  return a;
}

}  // namespace moe::cuda
