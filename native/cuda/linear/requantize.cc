#include "linear/requantize.h"

#include <algorithm>
#include <array>
#include <optional>

#include "host/device.h"
#include "host/fusion.h"
#include "linear/bank.h"
#include "linear/parts.h"
#include "linear/prepare_rows.h"
#include "moe/dtype.h"

namespace moe::cuda {
namespace {

// Of the floats of a row block, which one thread block reads twice: at the rate of one multiprocessor about as long as the
// launch that is saved.
constexpr int64_t most_block_bytes = 256 << 10;
constexpr int64_t most_block_rows = 128;

bool is_linear(const Node &node) {
  return node.op == MOE_LINEAR && !node.absorbed && node.output[0] && node.input[x_input] &&
         node.input[weight_input].bank != nullptr;
}

// Where every part of the bank reads codes, in blocks of one width.
std::optional<PreparedRows> plan_of_reader(const Node &reader) {
  const Bank &bank = *reader.input[weight_input].bank;
  if (reader.as<moe_linear>().mode != MOE_INT8 || bank.factor_in().present()) return std::nullopt;
  const Operand &x = reader.input[x_input];
  PackedView sparse;  // as plan_rows sees a weight
  sparse.store = bank.sparse().view().store;
  sparse.group = bank.sparse().view().group;
  const std::array<std::pair<bool, PackedView>, 3> parts{{{bank.base().present(), bank.base().view()},
                                                          {bank.kept_rows().present(), bank.kept_rows().view()},
                                                          {bank.sparse().present(), sparse}}};
  std::optional<PreparedRows> plan;
  for (const auto &[present, view] : parts) {
    if (!present) continue;
    if (view.store != MOE_I8 && view.store != MOE_I4) return std::nullopt;
    const PreparedRows own = plan_rows(x, view, true, x.place.offset);
    if (plan && plan->rows.block != own.rows.block) return std::nullopt;
    if (!plan || own.rows.sums.present()) plan = own;
  }
  return plan;
}

bool alike(const PreparedRows &a, const PreparedRows &b) {
  return a.rows.block == b.rows.block && a.rows.sums.present() == b.rows.sums.present();
}

// Whether the rows of `maker` come in few enough row blocks, each small enough for the thread block that ends it.
bool can_quantize(const Node &maker) {
  const Operand &y = maker.output[0];
  const int64_t slots = maker.input[offsets_input] ? maker.input[weight_input].bank->slots() : 1;
  const int64_t rows = std::min(ceil_divide(y.rows(), slots), most_block_rows);
  return y.width() % 4 == 0 && dtype_bytes(y.dtype, rows * y.width()) <= most_block_bytes &&
         y.rows() / 8 + slots <= Frame::most_row_blocks;
}

// As all readers of value `y` read it; nothing where they differ.
std::optional<PreparedRows> plan_of_readers(const FusionContext &context, int32_t y) {
  std::optional<PreparedRows> plan;
  for (const Readers::Reader &reader : context.readers.of(y)) {
    const Node &node = context.nodes[static_cast<size_t>(reader.node)];
    const std::optional<PreparedRows> own = is_linear(node) ? plan_of_reader(node) : std::nullopt;
    if (!own || (plan && !alike(*plan, *own))) return std::nullopt;
    plan = own;
  }
  return plan;
}

}  // namespace

Rows rows_as_read(const Node &reader) { return plan_of_reader(reader).value().rows; }

void fuse_requantize(const FusionContext &context) {
  for (size_t n = 0; n < context.nodes.size(); ++n) {
    Node &maker = context.nodes[n];
    const int32_t y = context.graph.nodes[n].output[0];
    if (!is_linear(maker) || !context.readers.only_as(y, x_input) || !can_quantize(maker)) continue;
    const std::optional<PreparedRows> plan = plan_of_readers(context, y);
    if (!plan || plan->bytes > dtype_bytes(maker.output[0].dtype, maker.output[0].elements())) continue;
    for (const Readers::Reader &reader : context.readers.of(y)) {
      Node &node = context.nodes[static_cast<size_t>(reader.node)];
      node.rows_from = &maker;
      maker.rows_for = &node;
    }
  }
}

}  // namespace moe::cuda
