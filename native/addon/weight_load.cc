// Reads the arguments of loadWeight and checks that the pieces cover the bank.
#include <algorithm>

#include "addon/weight.h"
#include "core/convert.h"
#include "moe/checked.h"
#include "moe/dtype.h"

namespace moe::addon {

namespace {

constexpr int64_t max_width = int64_t{1} << 31;
constexpr int64_t max_slots = 1 << 20;
constexpr uint32_t max_pieces = 1 << 22;

std::vector<int64_t> read_widths(const Napi::Value &value, const char *argument, int64_t slots, int64_t max) {
  std::vector<int64_t> widths;
  if (value.IsUndefined()) return widths;
  const std::vector<napi_value> list = elements(value, argument, static_cast<uint32_t>(max_slots));
  if (static_cast<int64_t>(list.size()) != slots) {
    throw Error(MOE_INVALID_ARGUMENT, argument, "one width a slot: " + std::to_string(slots),
                std::to_string(list.size()));
  }
  for (const napi_value width : list) widths.push_back(integer(Napi::Value(value.Env(), width), argument, 1, max));
  return widths;
}

// Rows of a slot of a part.
int64_t slot_rows(const WeightLoad &load, int32_t slot) {
  return load.out_of.empty() ? load.spec.out : load.out_of[static_cast<size_t>(slot)];
}

void read_spec(const Napi::Value &value, WeightLoad &load) {
  const Napi::Object spec = object(value, "spec");
  load.spec.in = integer(property(spec, "in"), "spec.in", 1, max_width);
  load.spec.out = integer(property(spec, "out"), "spec.out", 1, max_width);
  load.spec.slots = static_cast<int32_t>(integer(property(spec, "slots"), "spec.slots", 1, max_slots));
  load.spec.gated = boolean(property(spec, "gated"), "spec.gated");
  load.in_of = read_widths(property(spec, "inOf"), "spec.inOf", load.spec.slots, load.spec.in);
  load.out_of = read_widths(property(spec, "outOf"), "spec.outOf", load.spec.slots, load.spec.out);
  load.parts.push_back(read_form(property(spec, "base"), "spec.base"));
  if (boolean(property(spec, "bias"), "spec.bias")) load.parts.push_back({MOE_PART_BIAS, MOE_F32, -1, -1, 0});
  if (load.spec.gated) {
    bool even = load.spec.out % 2 == 0;
    for (const int64_t width : load.out_of) even = even && width % 2 == 0;
    if (!even) throw Error(MOE_INVALID_ARGUMENT, "spec.out", "an even number of rows in a gated bank", "an odd one");
  }
}

void check_source(const HostBytes &bytes, int64_t row_size, int64_t rows, const std::string &argument) {
  const int64_t expected = checked_multiply(row_size, rows, argument);
  if (bytes.bytes() != expected)
    throw Error(MOE_INVALID_ARGUMENT, argument, std::to_string(expected) + " bytes",
                std::to_string(bytes.bytes()) + " bytes");
}

WeightPiece read_piece(const Napi::Value &value, const std::string &argument, const WeightLoad &load) {
  const Napi::Object piece = object(value, argument);
  WeightPiece result;
  const std::string part = text(property(piece, "part"), argument + ".part", 16);
  if (part != "base" && part != "bias")
    throw Error(MOE_INVALID_ARGUMENT, argument + ".part", "'base' or 'bias'", "'" + part + "'");
  if (part == "bias" && load.parts.size() < 2)
    throw Error(MOE_INVALID_ARGUMENT, argument + ".part", "'base' in a bank without bias", "'bias'");
  result.part = part == "bias";
  result.slot = static_cast<int32_t>(integer(property(piece, "slot"), argument + ".slot", 0, load.spec.slots - 1));
  const int64_t total = slot_rows(load, result.slot);
  result.row = integer(property(piece, "row"), argument + ".row", 0, total - 1);
  result.rows = integer(property(piece, "rows"), argument + ".rows", 1, total - result.row);
  result.form = read_form(property(piece, "form"), argument + ".form");
  if (result.part == 1 && !dtype_float(result.form.store))
    throw Error(MOE_INVALID_ARGUMENT, argument + ".form", "f32, f16 or bf16 for a bias", "a quantized form");
  const RowBytes row = row_bytes(result.form, load.columns(result));
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
    for (int32_t slot = 0; slot < load.spec.slots; slot++) {
      int64_t covered = 0;
      while (next != order.end() && (*next)->part == part && (*next)->slot == slot && (*next)->row == covered)
        covered += (*next++)->rows;
      if (covered == slot_rows(load, slot)) continue;
      const bool twice =
          next != order.end() && (*next)->part == part && (*next)->slot == slot && (*next)->row < covered;
      throw Error(MOE_INVALID_ARGUMENT, "pieces",
                  "every row of " + std::string(part ? "bias" : "base") + " of slot " + std::to_string(slot) + " once",
                  std::string(twice ? "a second piece for row " + std::to_string((*next)->row)
                                    : "none for row " + std::to_string(covered)));
    }
  }
  if (next != order.end())
    throw Error(MOE_INVALID_ARGUMENT, "pieces", "every row once",
                "a second piece for row " + std::to_string((*next)->row) + " of slot " + std::to_string((*next)->slot));
}

}  // namespace

int64_t WeightLoad::columns(const WeightPiece &piece) const {
  if (piece.part == 1) return 1;
  return in_of.empty() ? spec.in : in_of[static_cast<size_t>(piece.slot)];
}

moe_part read_form(const Napi::Value &value, const std::string &argument) {
  const Napi::Object form = object(value, argument);
  const std::string store = text(property(form, "store"), argument + ".store", 16);
  const Napi::Value scale = property(form, "scale"), offset = property(form, "offset"), group = property(form, "group");
  const std::string scale_name = scale.IsUndefined() ? "" : text(scale, argument + ".scale", 16);
  const bool with_offset = !offset.IsUndefined() && boolean(offset, argument + ".offset");
  return make_form(argument, store, scale_name, with_offset,
                   group.IsUndefined() ? 0 : number(group, argument + ".group"));
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
  load->spec.in_of = load->in_of.empty() ? nullptr : load->in_of.data();
  load->spec.out_of = load->out_of.empty() ? nullptr : load->out_of.data();
  load->spec.parts = load->parts.data();
  load->spec.part_count = static_cast<int32_t>(load->parts.size());
  check_cover(*load);
  return load;
}

}  // namespace moe::addon
