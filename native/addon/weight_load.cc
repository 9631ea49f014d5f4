// Reads the arguments of loadWeight and checks that the pieces cover the bank.
#include <algorithm>

#include "addon/weight.h"
#include "core/convert.h"
#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/weight_spec.h"

namespace moe::addon {

namespace {

constexpr int64_t max_width = int64_t{1} << 31;
constexpr int64_t max_slots = 1 << 20;
constexpr int64_t max_size = 1 << 30;  // of a rank or count
constexpr uint32_t max_pieces = 1 << 22;

// What JavaScript calls the parts, by kind.
constexpr std::string_view piece_names[] = {"base", "bias", "factorIn", "factorOut", "rows", "sparse"};

std::vector<int64_t> read_widths(const Napi::Value &value, const char *argument, int64_t slots, int64_t min,
                                 int64_t max) {
  std::vector<int64_t> widths;
  if (value.IsUndefined()) return widths;
  const std::vector<napi_value> list = elements(value, argument, static_cast<uint32_t>(max_slots));
  if (static_cast<int64_t>(list.size()) != slots) {
    throw Error(MOE_INVALID_ARGUMENT, argument, "one a slot: " + std::to_string(slots), std::to_string(list.size()));
  }
  for (const napi_value width : list) widths.push_back(integer(Napi::Value(value.Env(), width), argument, min, max));
  return widths;
}

// A rank or count: one for all slots, or a list of one a slot. Sets size and ragged of the part.
void read_size(const Napi::Value &value, const char *argument, int64_t slots, int64_t max, std::vector<int32_t> &each,
               moe_part &part) {
  if (value.IsNumber()) {
    part.size = static_cast<int32_t>(integer(value, argument, 1, max));
    return;
  }
  const std::vector<napi_value> list = elements(value, argument, static_cast<uint32_t>(max_slots));
  if (static_cast<int64_t>(list.size()) != slots)
    throw Error(MOE_INVALID_ARGUMENT, argument, "a number, or one a slot: " + std::to_string(slots),
                std::to_string(list.size()));
  for (const napi_value size : list)
    each.push_back(static_cast<int32_t>(integer(Napi::Value(value.Env(), size), argument, 0, max)));
  part.size = std::max(1, *std::max_element(each.begin(), each.end()));
  part.ragged = each.data();
}

void read_parts(const Napi::Object &spec, WeightLoad &load) {
  const int32_t slots = load.spec.slots;
  const Napi::Value base = property(spec, "base"), base_of = property(spec, "baseOf");
  if (!base.IsUndefined()) load.parts.push_back(read_form(base, "spec.base"));
  if (!base_of.IsUndefined()) {
    for (const int64_t slot : read_widths(base_of, "spec.baseOf", slots, 0, slots - 1))
      load.base_of.push_back(static_cast<int32_t>(slot));
    load.spec.base_slots = *std::max_element(load.base_of.begin(), load.base_of.end()) + 1;
  }
  const Napi::Value low_rank = property(spec, "lowRank"), rows = property(spec, "rows"),
                    sparse = property(spec, "sparse");
  if (!low_rank.IsUndefined()) {
    const Napi::Object factors = object(low_rank, "spec.lowRank");
    moe_part part = read_form(property(factors, "form"), "spec.lowRank.form");
    read_size(property(factors, "rank"), "spec.lowRank.rank", slots, max_size, load.ranks, part);
    for (const int32_t kind : {MOE_PART_FACTOR_IN, MOE_PART_FACTOR_OUT}) {
      part.kind = kind;
      load.parts.push_back(part);
    }
  }
  if (!rows.IsUndefined()) {
    const Napi::Object kept = object(rows, "spec.rows");
    moe_part part = read_form(property(kept, "form"), "spec.rows.form");
    read_size(property(kept, "count"), "spec.rows.count", slots, std::min(load.spec.out, max_size), load.counts, part);
    part.kind = MOE_PART_ROWS;
    load.parts.push_back(part);
  }
  if (!sparse.IsUndefined()) {
    const Napi::Object blocks = object(sparse, "spec.sparse");
    moe_part part = read_form(property(blocks, "form"), "spec.sparse.form");
    part.m = static_cast<int32_t>(integer(property(blocks, "m"), "spec.sparse.m", 2, 256));
    part.n = static_cast<int32_t>(integer(property(blocks, "n"), "spec.sparse.n", 1, part.m - 1));
    part.kind = MOE_PART_SPARSE;
    load.parts.push_back(part);
  }
  if (boolean(property(spec, "bias"), "spec.bias")) load.parts.push_back(bias_part());
}

void read_spec(const Napi::Value &value, WeightLoad &load) {
  const Napi::Object spec = object(value, "spec");
  load.spec.in = integer(property(spec, "in"), "spec.in", 1, max_width);
  load.spec.out = integer(property(spec, "out"), "spec.out", 1, max_width);
  load.spec.slots = static_cast<int32_t>(integer(property(spec, "slots"), "spec.slots", 1, max_slots));
  load.spec.gated = boolean(property(spec, "gated"), "spec.gated");
  load.in_of = read_widths(property(spec, "inOf"), "spec.inOf", load.spec.slots, 1, load.spec.in);
  load.out_of = read_widths(property(spec, "outOf"), "spec.outOf", load.spec.slots, 1, load.spec.out);
  if (load.spec.gated) {
    bool even = load.spec.out % 2 == 0;
    for (const int64_t width : load.out_of) even = even && width % 2 == 0;
    if (!even) throw Error(MOE_INVALID_ARGUMENT, "spec.out", "an even number of rows in a gated bank", "an odd one");
  }
  read_parts(spec, load);
  load.spec.in_of = load.in_of.empty() ? nullptr : load.in_of.data();
  load.spec.out_of = load.out_of.empty() ? nullptr : load.out_of.data();
  load.spec.base_of = load.base_of.empty() ? nullptr : load.base_of.data();
  load.spec.parts = load.parts.data();
  load.spec.part_count = static_cast<int32_t>(load.parts.size());
  check_weight_spec(load.spec);
}

void check_source(const HostBytes &bytes, int64_t row_size, int64_t rows, const std::string &argument) {
  const int64_t expected = checked_multiply(row_size, rows, argument);
  if (bytes.bytes() != expected)
    throw Error(MOE_INVALID_ARGUMENT, argument, std::to_string(expected) + " bytes",
                std::to_string(bytes.bytes()) + " bytes");
}

// The index of a part among those of the bank.
int32_t read_part(const Napi::Value &value, const std::string &argument, const WeightLoad &load) {
  const std::string name = text(value, argument, 16);
  std::string known;
  for (size_t i = 0; i < load.parts.size(); i++) {
    const std::string_view one = piece_names[load.parts[i].kind];
    if (one == name) return static_cast<int32_t>(i);
    known += (known.empty() ? "'" : ", '") + std::string(one) + "'";
  }
  throw Error(MOE_INVALID_ARGUMENT, argument, known + " in this bank", "'" + name + "'");
}

// Gives the form of a source the kind of its part, which must allow it.
void check_piece_form(const moe_part &target, const std::string &argument, moe_part &form) {
  const bool floats =
      target.kind == MOE_PART_BIAS || target.kind == MOE_PART_FACTOR_IN || target.kind == MOE_PART_FACTOR_OUT;
  if (floats && !dtype_float(form.store))
    throw Error(MOE_INVALID_ARGUMENT, argument,
                "f32, f16 or bf16 for " + std::string(target.kind == MOE_PART_BIAS ? "a bias" : "a factor"),
                "a quantized form");
  if (target.kind == MOE_PART_BIAS) return;
  form.kind = target.kind;
  form.n = target.n;
  form.m = target.m;
  check_store(form);
  if (form.m > 0 && form.group % form.m != 0)
    throw Error(MOE_INVALID_ARGUMENT, argument, "groups that blocks of " + std::to_string(form.m) + " divide",
                "groups of " + std::to_string(form.group));
}

WeightPiece read_piece(const Napi::Value &value, const std::string &argument, const WeightLoad &load) {
  const Napi::Object piece = object(value, argument);
  WeightPiece result;
  result.part = read_part(property(piece, "part"), argument + ".part", load);
  const moe_part &target = load.parts[static_cast<size_t>(result.part)];
  const std::string slot = argument + ".slot";
  result.slot = static_cast<int32_t>(integer(property(piece, "slot"), slot, 0, load.slots(result.part) - 1));
  const int64_t total = load.rows(result.part, result.slot);
  if (total == 0) throw Error(MOE_INVALID_ARGUMENT, slot, "a slot with rows in this part", std::to_string(result.slot));
  result.row = integer(property(piece, "row"), argument + ".row", 0, total - 1);
  result.rows = integer(property(piece, "rows"), argument + ".rows", 1, total - result.row);
  result.form = read_form(property(piece, "form"), argument + ".form");
  check_piece_form(target, argument + ".form", result.form);
  const RowBytes row = row_bytes(result.form, load.columns(result.part, result.slot));
  const auto source = [&](const char *name, int64_t size) {
    const std::string where = argument + "." + name;
    const Napi::Value bytes = property(piece, name);
    if (size == 0) {
      if (!bytes.IsUndefined()) refuse(where, "nothing: the form has none", bytes);
      return HostBytes();
    }
    HostBytes read = HostBytes::read(bytes, where);
    check_source(read, size, result.rows, where);
    return read;
  };
  result.values = source("values", row.values);
  result.scale = source("scale", row.scale);
  result.offset = source("offset", row.offset);
  result.outer = source("outer", row.outer);
  result.index = source("index", row.index);
  return result;
}

// Every row of every slot of every part once.
void check_cover(const WeightLoad &load) {
  std::vector<const WeightPiece *> order;
  order.reserve(load.pieces.size());
  for (const WeightPiece &piece : load.pieces) order.push_back(&piece);
  const auto key = [](const WeightPiece *piece) { return std::tuple(piece->part, piece->slot, piece->row); };
  std::sort(order.begin(), order.end(), [&](const WeightPiece *a, const WeightPiece *b) { return key(a) < key(b); });
  auto next = order.begin();
  for (int32_t part = 0; part < static_cast<int32_t>(load.parts.size()); part++) {
    for (int32_t slot = 0; slot < load.slots(part); slot++) {
      int64_t covered = 0;
      while (next != order.end() && (*next)->part == part && (*next)->slot == slot && (*next)->row == covered)
        covered += (*next++)->rows;
      if (covered == load.rows(part, slot)) continue;
      const bool twice =
          next != order.end() && (*next)->part == part && (*next)->slot == slot && (*next)->row < covered;
      throw Error(MOE_INVALID_ARGUMENT, "pieces",
                  "every row of " + std::string(piece_names[load.parts[static_cast<size_t>(part)].kind]) + " of slot " +
                      std::to_string(slot) + " once",
                  std::string(twice ? "a second piece for row " + std::to_string((*next)->row)
                                    : "none for row " + std::to_string(covered)));
    }
  }
  if (next != order.end())
    throw Error(MOE_INVALID_ARGUMENT, "pieces", "every row once",
                "a second piece for row " + std::to_string((*next)->row) + " of slot " + std::to_string((*next)->slot));
}

}  // namespace

int32_t WeightLoad::slots(int32_t part) const {
  const bool shared = parts[static_cast<size_t>(part)].kind == MOE_PART_BASE && !base_of.empty();
  return shared ? spec.base_slots : spec.slots;
}

int64_t WeightLoad::rows(int32_t part, int32_t slot) const {
  return part_rows(parts[static_cast<size_t>(part)], slot, slot_out(slot));
}

int64_t WeightLoad::columns(int32_t part, int32_t slot) const {
  return part_columns(parts[static_cast<size_t>(part)], slot, slot_in(slot));
}

moe_part read_form(const Napi::Value &value, const std::string &argument) {
  const Napi::Object form = object(value, argument);
  const std::string store = text(property(form, "store"), argument + ".store", 16);
  const Napi::Value scale = property(form, "scale"), offset = property(form, "offset"), group = property(form, "group");
  const std::string scale_name = scale.IsUndefined() ? "" : text(scale, argument + ".scale", 16);
  const bool with_offset = !offset.IsUndefined() && boolean(offset, argument + ".offset");
  const Napi::Value outer = property(form, "outer");
  return make_form(argument, store, scale_name, with_offset,
                   group.IsUndefined() ? 0 : number(group, argument + ".group"),
                   outer.IsUndefined() ? "" : text(outer, argument + ".outer", 16));
}

std::unique_ptr<WeightLoad> read_weight_load(const Napi::CallbackInfo &info) {
  auto load = std::make_unique<WeightLoad>();
  load->cancel = Cancel::optional(info[2], "cancel");
  read_spec(info[0], *load);
  const std::vector<napi_value> pieces = elements(info[1], "pieces", max_pieces);
  load->pieces.reserve(pieces.size());
  for (size_t i = 0; i < pieces.size(); i++) {
    const Napi::HandleScope scope(info.Env());
    load->pieces.push_back(read_piece(Napi::Value(info.Env(), pieces[i]), "pieces[" + std::to_string(i) + "]", *load));
  }
  check_cover(*load);
  return load;
}

}  // namespace moe::addon
