// route: which kernel, how many warps, and what is kept in scratch.
#include <algorithm>

#include "host/device.h"
#include "linear/bank.h"
#include "linear/parts.h"
#include "moe/checked.h"
#include "moe/dtype.h"
#include "route/arguments.h"
#include "route/exchange.h"
#include "route/router.h"

namespace moe::cuda {
namespace {

constexpr int64_t small_tokens = 64, word = 4;
constexpr int64_t usual_choices = 2048;  // of a block, which shared memory has room for beside the counts of its warps
constexpr int64_t least_share = 4;       // buckets
constexpr int32_t most_runs = 32;        // a lane a run of experts

// Everything at the largest sizes. Places in scratch have offsets from its start.
struct Plan {
  RouteArguments arguments{};
  Grid grid{};
  Work work{};
  int candidates = 0;  // as launch_route_small
  bool small = false, fused = false;
  RouterArguments router{};  // where the product of the router is fused: all but `route`
  int64_t scratch_bytes = 0;

  // Cuts `count` elements of `bytes` from scratch.
  Place cut(const Node &node, int64_t count, int64_t bytes) {
    Place place = node.scratch;
    place.base = 0;
    place.offset += scratch_bytes;
    const int64_t size = checked_multiply(count, bytes, "route");
    scratch_bytes = checked_add(scratch_bytes, checked_add(size, 255, "route") / 256 * 256, "route");
    return place;
  }
};

void plan_block(const Device &device, int64_t tokens, int64_t buckets, Plan &plan) {
  RouteArguments &a = plan.arguments;
  const int64_t most_warps = plan.fused ? router_warps : route_threads(plan.candidates) / 32;
  const int64_t maps = !a.group_of.present() ? 0 : a.coalesces() ? 1 : 2;
  // 32: partial sums; 16 bytes for the alignment of each array.
  const int64_t exchanged = plan.small ? 0 : exchange_words(a.buckets());
  const int64_t fixed =
      word * ((plan.small ? 1 : 2) * (buckets + 1) + 32 + maps * a.route.experts + exchanged) + 14 * 16;
  // Ids, gates and (of many blocks) places in the order of the choices; tokens, gates and (likewise) buckets in that of the rows.
  const int64_t choice_words = plan.small ? 4 : 6;
  const int64_t fit =
      (static_cast<int64_t>(device.shared_bytes()) - choice_words * word * usual_choices - fixed) / (word * buckets);
  if (fit < 1)
    throw Error(
        MOE_UNSUPPORTED, "route.experts",
        "experts and slots whose counts fit " + std::to_string(device.shared_bytes()) + " bytes of shared memory",
        std::to_string(a.route.experts) + " experts, " + std::to_string(a.route.slots) + " slots");
  const bool experts_choose = a.route.choice == MOE_CHOICE_EXPERT;
  const int64_t multiprocessors = device.multiprocessors();
  int64_t warps = std::max<int64_t>(1, tokens), blocks = 1;
  if (!plan.small) warps = tokens <= most_warps / 2 * multiprocessors ? most_warps / 2 : most_warps;
  if (experts_choose || plan.fused) warps = most_warps;
  warps = std::min({warps, fit, most_warps});
  if (!plan.small) blocks = experts_choose ? multiprocessors : std::min(multiprocessors, (tokens + warps - 1) / warps);
  const int64_t each = std::max<int64_t>(1, (tokens + warps * blocks - 1) / (warps * blocks));
  // A half of them in the order of the choices, a half in that of the rows.
  const int64_t choice_bytes = word * choice_words * each * a.route.top_k * warps, member_bytes = choice_bytes / 2;
  int64_t bytes = fixed + word * buckets * warps;
  // Where the product of the router is fused it has a share of its own (plan_product).
  const int64_t room =
      plan.fused ? word * choice_words * usual_choices : static_cast<int64_t>(device.shared_bytes()) - bytes;
  const int64_t left = room - choice_bytes;
  a.members = 1;
  if (left >= 0) {
    a.staged_tokens = static_cast<int32_t>(each);
    bytes += choice_bytes;
    // Runs are longer with each member, but a share of a bucket or two is read in parts of sectors.
    const int64_t most = plan.small ? 1 : std::min({most_members, blocks, int64_t{a.buckets()} / least_share});
    const int64_t members = std::clamp<int64_t>(1 + left / member_bytes, 1, std::max<int64_t>(1, most));
    a.members = static_cast<int32_t>(members);
    bytes += (members - 1) * member_bytes;
  }
  plan.grid = {dim3(static_cast<unsigned>(blocks)), static_cast<unsigned>(32 * warps), static_cast<size_t>(bytes),
               !plan.small};
}

// What the product moves and computes beside route itself, and the grid that it asks for.
void plan_product(const Device &device, const Node &node, Plan &plan) {
  const Node &linear = *node.product;
  const Operand &x = linear.input[x_input];
  const Bank &bank = *linear.input[weight_input].bank;
  RouterArguments &a = plan.router = router_arguments(device, linear);
  const int64_t tokens = x.rows(), padded = int64_t{a.panels} * panel_rows, experts = plan.arguments.route.experts;
  const int64_t most = tokens == 1 ? 1 : most_router_tokens;
  a.parts = plan.cut(node, a.splits * tokens * padded, word);
  plan.grid.blocks = dim3(static_cast<unsigned>(a.panels), static_cast<unsigned>(a.splits));
  plan.grid.shared_bytes += static_cast<size_t>(word * most * (router_warps * panel_rows + experts) + 3 * 16);
  plan.work.kernel = "router";
  plan.work.bytes += bank.base().slot_bytes(0) + a.panels * dtype_bytes(x.dtype, x.elements()) +
                     word * a.splits * tokens * (padded + experts) + (a.bias != nullptr ? word * experts : 0);
  plan.work.operations += 2 * tokens * experts * a.width;
}

Plan make_plan(const Device &device, const Node &node) {
  Plan plan;
  RouteArguments &a = plan.arguments;
  const auto place = [](const Operand &operand) { return operand.place; };
  a.route = node.as<moe_route>();
  a.logits = place(node.input[0]);
  a.bias = place(node.input[1]);
  a.group_of = place(node.input[2]);
  a.given_ids = place(node.input[3]);
  a.given_gates = place(node.input[4]);
  a.ids = place(node.output[0]);
  a.gates = place(node.output[1]);
  a.row_of = place(node.output[2]);
  a.token_of = place(node.output[3]);
  a.gate_of = place(node.output[4]);
  a.offsets = place(node.output[5]);
  if (a.route.expert_groups > most_runs)
    throw Error(MOE_UNSUPPORTED, "route.expertGroups", "at most " + std::to_string(most_runs),
                std::to_string(a.route.expert_groups));

  const Operand &logits = node.input[0];
  const int64_t experts = a.route.experts, top_k = a.route.top_k;
  const int64_t tokens = node.input[3] ? node.input[3].rows() : logits.rows();
  const int64_t choices = checked_multiply(tokens, top_k, "route.topK");
  if (choices > INT32_MAX) throw Error(MOE_UNSUPPORTED, "route.topK", "fewer than 2^31 rows", std::to_string(choices));
  const bool experts_choose = a.route.choice == MOE_CHOICE_EXPERT, drops = a.route.capacity > 0 && !experts_choose;
  const int64_t buckets = drops ? std::max<int64_t>(a.buckets(), experts) : a.buckets();
  a.largest_tokens = tokens;
  plan.small = tokens <= small_tokens;
  plan.fused = node.product != nullptr;
  plan.candidates = experts <= 128 ? 4 : experts <= 256 ? 8 : experts <= 512 ? 16 : 0;
  plan_block(device, tokens, buckets, plan);

  const int64_t blocks = plan.grid.blocks.x, warps = blocks * (plan.grid.threads / 32);
  const int64_t scores = experts_choose ? checked_multiply(tokens, experts, "route") : 0;
  if (a.staged_tokens == 0) {
    a.kept_ids = a.ids.present() ? a.ids : plan.cut(node, choices, word);
    a.kept_gates = a.gates.present() ? a.gates : plan.cut(node, choices, word);
  }
  if (!plan.small) {
    a.counts = plan.cut(node, checked_multiply(buckets, blocks, "route"), word);
    a.totals = plan.cut(node, buckets, word);
    if (a.staged_tokens > 0) {
      a.given_rows = plan.cut(node, blocks * a.staged_tokens * (plan.grid.threads / 32) * top_k, 2 * word);
      a.starts = plan.cut(node, checked_multiply(a.buckets() + 1, blocks, "route"), word);
    }
  }
  if (experts_choose) {
    a.keys = plan.cut(node, scores, word);
    a.last = plan.cut(node, experts, 2 * word);
  }
  if (plan.candidates == 0) a.rows = plan.cut(node, warps * ((experts + 31) / 32 * 32), word);

  // Logits are read once for all scores, and again where chosen if something else is ranked. An expert's search reads its
  // column once a bit.
  int64_t words = 0;
  for (int i = 0; i < 5; ++i) words += node.output[static_cast<size_t>(i)] ? choices : 0;
  if (a.staged_tokens == 0) words += choices * (drops ? 8 : 6);  // written early, and read by each walk
  const bool kept =
      a.staged_tokens > 0 && !a.bias.present() && a.route.expert_groups <= 1 && !experts_choose && !node.input[3];
  const int64_t read = logits.elements() + (kept ? 0 : choices);
  const int64_t logit_bytes = a.scored() && !plan.fused ? dtype_bytes(logits.dtype, read) : 0;
  const int64_t given = node.input[3] ? word * choices : 0;
  const int64_t gates = node.input[4] ? dtype_bytes(node.input[4].dtype, choices) : 0;
  const int64_t counted = plan.small ? 0 : word * buckets * 5 * blocks * (drops ? 2 : 1);
  // Rows given and taken, and where they begin: of each member, and in all.
  const int64_t exchanged = plan.small || a.staged_tokens == 0
                                ? 0
                                : word * (4 * choices + blocks * (2 * (a.buckets() + 1) + a.members) +
                                          ceil_divide(blocks, a.members) * a.buckets());
  const int64_t rows = plan.candidates == 0 ? 4 * word * tokens * experts : 0;
  plan.work = {plan.small ? "route_small" : "route_large",
               logit_bytes + given + gates + word * (words + a.route.slots + 1) + counted + exchanged + rows +
                   36 * word * scores,
               tokens * experts * 8};
  if (plan.fused) plan_product(device, node, plan);
  return plan;
}

}  // namespace

int64_t scratch_route(const Device &device, const Node &node) { return make_plan(device, node).scratch_bytes; }

void launch_route(const Node &node, Launcher &launcher) {
  Plan plan = make_plan(launcher.device(), node);
  if (plan.fused) {
    plan.router.route = plan.arguments;
    return launch_router(launcher, plan.work, plan.grid, plan.candidates, plan.router);
  }
  const auto launch = plan.small ? launch_route_small : launch_route_large;
  launch(launcher, plan.work, plan.grid, plan.candidates, plan.arguments);
}

}  // namespace moe::cuda
