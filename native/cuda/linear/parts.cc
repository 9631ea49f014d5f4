#include "linear/parts.h"

#include <algorithm>

#include "host/launcher.h"
#include "linear/bank.h"
#include "linear/requantize.h"
#include "linear/tile_form.h"
#include "linear/tiles.h"
#include "moe/checked.h"
#include "moe/dtype.h"

namespace moe::cuda {
namespace {

// Adds what one more product of `stack` moves and computes, as the mean of its matrices.
template <class Stack>
void add_plan(LinearPlan &plan, const Stack &stack) {
  int64_t bytes = 0, values = 0;
  const auto count = static_cast<int64_t>(stack.slot_count());
  for (size_t s = 0; s < stack.slot_count(); ++s) {
    bytes += stack.slot_bytes(s);
    values += stack.slot_values(s);
  }
  plan.matrix_bytes += bytes / count;
  plan.row_operations += 2 * values / count;
}

}  // namespace

void launch_sparse(const SparseArguments &arguments, const LinearPlan &plan, Launcher &launcher) {
  if (arguments.sparse.weight.half()) {
    launch_sparse_half(arguments, plan, launcher);
  } else {
    launch_sparse_any(arguments, plan, launcher);
  }
}

bool can_join(const LinearArguments &arguments, const SparsePart &sparse) {
  return sparse.weight.half() && sparse.weight.store != MOE_F32 &&
         sparse.segment.rows.form == arguments.segment[0].rows.form && for_tile_form(arguments, [](auto, auto) {});
}

bool few_rows(const LinearArguments &arguments) {
  return arguments.row_capacity <= 16 * int64_t{std::max(arguments.slots, 1)};
}

namespace {

// As launch_product; a sum of base and S.
void launch_joint(const LinearArguments &arguments, const SparsePart &sparse, const LinearPlan &plan,
                  Launcher &launcher) {
  const Device &device = launcher.device();
  const bool tiles = !few_rows(arguments) && !device.batch_invariant() && tiles_can_run(device, arguments);
  if (tiles && launch_tiles_sparse(arguments, sparse, plan, launcher)) return;
  launch_decode_sparse(arguments, sparse, plan, launcher);
}

}  // namespace

LinearParts::LinearParts(const Node &node) : node_(node), bank_(*node.input[weight_input].bank) { add_sum(); }

LinearArguments LinearParts::arguments_of_node() const {
  LinearArguments arguments{};
  arguments.token_of = node_.input[token_of_input].place;
  arguments.offsets = node_.input[offsets_input].place;
  arguments.slots = bank_.slots();
  arguments.row_capacity = node_.output[0].rows();
  return arguments;
}

// A row in scratch for each row of y.
Operand LinearParts::take_floats(int64_t columns, int32_t dtype) {
  Operand made;
  made.dtype = dtype;
  made.rank = 2;
  made.dim = {node_.output[0].rows(), columns};
  made.place = node_.output[0].place;
  made.place.dtype = dtype;
  made.place.base = 0;
  made.place.offset = node_.scratch.offset + bytes_;
  bytes_ += align_up(dtype_bytes(dtype, made.elements()), 256);
  return made;
}

// x as products with `weight` read it, made by a step of its own where no earlier one did.
Rows LinearParts::rows_of(const Operand &x, const PackedView &weight) {
  const bool int8 = node_.as<moe_linear>().mode == MOE_INT8 && (weight.store == MOE_I8 || weight.store == MOE_I4);
  if (int8 && node_.rows_from != nullptr) return rows_as_read(node_);
  const PreparedRows planned = plan_rows(x, weight, int8, node_.scratch.offset + bytes_);
  if (!planned.needed) return planned.rows;
  for (const Preparation &made : prepared_) {
    const Rows &rows = made.rows;
    const bool alike = made.x.place.offset == x.place.offset && made.x.place.base == x.place.base &&
                       rows.form == planned.rows.form && rows.planes == planned.rows.planes;
    const bool blocks_alike = rows.block == planned.rows.block || (!int8 && !planned.rows.sums.present());
    if (!alike || !blocks_alike || (planned.rows.sums.present() && !rows.sums.present())) continue;
    Rows found = rows;
    found.block = planned.rows.block;
    found.blocks = planned.rows.blocks;
    return found;
  }
  bytes_ += planned.bytes;
  prepared_.push_back({x, planned.rows});
  steps_.push_back(prepared_.back());
  return planned.rows;
}

// x·stackᵀ for the rows of y.
Operand LinearParts::shrink(const PackedStack &stack) {
  const Operand &x = node_.input[x_input];
  Product product{arguments_of_node(), {}};
  LinearArguments &to = product.arguments;
  to.segment[0] = {stack.view(), rows_of(x, stack.view()), gathered()};
  to.segments = 1;
  to.row_slots = stack.view().slots;
  to.activation = MOE_NONE;
  int64_t columns = 0;
  for (const PackedSlot &slot : stack.slots()) columns = std::max(columns, int64_t{slot.rows});
  columns = align_up(std::max(columns, int64_t{1}), panel_rows);
  const Operand y = take_floats(columns);
  to.y = y.place;
  to.columns = columns;
  to.panels = static_cast<int32_t>(columns / panel_rows);
  add_plan(product.plan, stack);
  product.plan.output_bytes = dtype_bytes(MOE_F32, y.elements());
  steps_.push_back(product);
  return y;
}

// What is done with a sum before it is stored.
LinearArguments LinearParts::epilogue() {
  LinearArguments to = arguments_of_node();
  if (bank_.kept_rows().present()) {
    const Operand kept = shrink(bank_.kept_rows());
    to.kept_values = kept.place;
    to.kept_of = bank_.kept_of();
    to.kept_stride = static_cast<int32_t>(kept.width());
  }
  to.bias = bank_.bias();
  to.row_slots = bank_.outputs();
  to.activation = node_.as<moe_linear>().activation;
  to.residual = node_.input[residual_input].place;
  to.columns = node_.output[0].width();
  if (node_.rows_for == nullptr) {
    to.y = node_.output[0].place;
  } else {
    to.y = take_floats(to.columns, node_.output[0].dtype).place;
    to.rows_of_y = rows_as_read(*node_.rows_for);
  }
  to.panels = bank_.panels();
  return to;
}

// What `epilogue` moves. Each row of y looks up its biases and kept rows anew.
int64_t LinearParts::epilogue_bytes(const LinearArguments &to) const {
  const Operand &y = node_.output[0], &residual = node_.input[residual_input];
  int64_t bytes = dtype_bytes(y.dtype, y.elements());
  if (residual) bytes += dtype_bytes(residual.dtype, y.elements());
  if (node_.rows_for != nullptr) bytes += preparation_bytes(y, to.rows_of_y);
  if (to.bias != nullptr) bytes += dtype_bytes(MOE_F32, y.rows() * bank_.out());
  if (to.kept_of != nullptr) bytes += dtype_bytes(MOE_F32, y.rows() * (bank_.out() + to.kept_stride));
  return bytes;
}

SparsePart LinearParts::sparse_part() {
  const SparseView &view = bank_.sparse().view();
  PackedView like;  // as plan_rows sees a weight
  like.store = view.store;
  like.group = view.group;
  return {view, {{}, rows_of(node_.input[x_input], like), gathered()}};
}

// S·x where a base is there too: f32 in packed order of the outputs, which the base's launch takes up.
Operand LinearParts::sparse_sum(const SparsePart &sparse) {
  LinearArguments to = arguments_of_node();
  to.row_slots = bank_.packed_outputs();
  to.activation = MOE_NONE;
  to.panels = bank_.panels();
  to.columns = int64_t{to.panels} * panel_rows;
  const Operand sum = take_floats(to.columns);
  to.y = sum.place;
  SparseProduct product{{to, sparse}, {}};
  add_plan(product.plan, bank_.sparse());
  product.plan.output_bytes = dtype_bytes(MOE_F32, sum.elements());
  steps_.push_back(product);
  return sum;
}

void LinearParts::add_sum() {
  const Operand &x = node_.input[x_input];
  const PackedStack &base = bank_.base(), &b = bank_.factor_out();
  const bool low_rank = b.present(), beside = base.present() || bank_.sparse().present();
  Product sum{epilogue(), {}};
  LinearArguments &to = sum.arguments;
  sum.plan.output_bytes = epilogue_bytes(to);
  if (low_rank) {
    const Operand t = shrink(bank_.factor_in());
    if (beside) {
      to.low_rank = {b.view(), t.place, static_cast<int32_t>(t.width())};
    } else {
      to.segment[to.segments++] = {b.view(), rows_of(t, b.view()), 0};
    }
    add_plan(sum.plan, b);
  }
  if (base.present()) {
    to.segment[to.segments++] = {base.view(), rows_of(x, base.view()), gathered()};
    add_plan(sum.plan, base);
  }
  if (!bank_.sparse().present()) {
    steps_.push_back(sum);
    return;
  }
  const SparsePart sparse = sparse_part();
  if (!base.present()) {
    add_plan(sum.plan, bank_.sparse());
    steps_.push_back(SparseProduct{{to, sparse}, sum.plan});
  } else if (can_join(to, sparse)) {
    add_plan(sum.plan, bank_.sparse());
    steps_.push_back(JointProduct{to, sparse, sum.plan});
  } else {
    const Operand partial = sparse_sum(sparse);
    to.partial = partial.place;
    sum.plan.output_bytes += dtype_bytes(MOE_F32, partial.elements());
    steps_.push_back(sum);
  }
}

void LinearParts::launch(Launcher &launcher) const {
  for (const auto &step : steps_) {
    if (const auto *preparation = std::get_if<Preparation>(&step)) {
      prepare_rows(preparation->x, preparation->rows, launcher);
    } else if (const auto *product = std::get_if<Product>(&step)) {
      launch_product(product->arguments, product->plan, launcher);
    } else if (const auto *joint = std::get_if<JointProduct>(&step)) {
      launch_joint(joint->arguments, joint->sparse, joint->plan, launcher);
    } else {
      const auto &sparse = std::get<SparseProduct>(step);
      launch_sparse(sparse.arguments, sparse.plan, launcher);
    }
  }
}

}  // namespace moe::cuda
