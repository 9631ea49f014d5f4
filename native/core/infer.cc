#include "core/infer.h"

#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/error.h"

namespace moe::infer {

std::string operand_name(const Inference &in, int slot) {
  return std::string(in.operation.name) + "." + std::string(in.operation.inputs[static_cast<size_t>(slot)].name);
}

std::string attribute_name(const Inference &in, const char *name) {
  return std::string(in.operation.name) + "." + name;
}

void refuse_operand(const Inference &in, int slot, const std::string &expected, const std::string &received) {
  throw Error(MOE_INVALID_ARGUMENT, operand_name(in, slot), expected, received);
}

void refuse_attribute(const Inference &in, const char *name, const std::string &expected, int64_t received) {
  throw Error(MOE_INVALID_ARGUMENT, attribute_name(in, name), expected, std::to_string(received));
}

void want_shape(const Inference &in, int slot, std::initializer_list<Want> dims) {
  if (!has(in, slot)) return;
  const moe_type &type = type_of(in, slot);
  bool fits = type.rank == static_cast<int32_t>(dims.size());
  std::string expected = "[";
  int index = 0;
  for (const Want &want : dims) {
    if (index > 0) expected += ", ";
    expected += want.name ? want.name : print_dim(want.dim, in.symbols);
    fits = fits && (want.name || same_dim(type.dim[index], want.dim));
    ++index;
  }
  if (!fits) throw Error(MOE_SHAPE_MISMATCH, operand_name(in, slot), expected + "]", print_type(type, in.symbols));
}

void want_dtype(const Inference &in, int slot, int32_t dtype) {
  if (!has(in, slot) || type_of(in, slot).dtype == dtype) return;
  throw Error(MOE_DTYPE_MISMATCH, operand_name(in, slot), dtypes[static_cast<size_t>(dtype)].name,
              print_type(type_of(in, slot), in.symbols));
}

void want_float(const Inference &in, int slot) {
  if (!has(in, slot) || dtype_float(type_of(in, slot).dtype)) return;
  throw Error(MOE_DTYPE_MISMATCH, operand_name(in, slot), "f32, f16 or bf16",
              print_type(type_of(in, slot), in.symbols));
}

void want_constant(const Inference &in, int slot) {
  if (!has(in, slot) || in.input[static_cast<size_t>(slot)]->role == MOE_ROLE_CONSTANT) return;
  refuse_operand(in, slot, "a constant of the graph", "a value that changes from run to run");
}

void want_state(const Inference &in, int slot) {
  if (!has(in, slot) || in.input[static_cast<size_t>(slot)]->role == MOE_ROLE_STATE) return;
  refuse_operand(in, slot, "a state of the graph, which the operation updates", "a value that is only read");
}

void want_presence(const Inference &in, int slot, bool needed, const char *when) {
  if (has(in, slot) == needed) return;
  refuse_operand(in, slot, std::string(needed ? "a value " : "nothing ") + when, needed ? "nothing" : "a value");
}

void set_output(Inference &in, int slot, const moe_type &type) {
  in.output[static_cast<size_t>(slot)] = type;
  in.present[static_cast<size_t>(slot)] = true;
}

namespace {

// The width of a head: the last dimension of the operand cut into `heads`.
int64_t head_width(const Inference &in, int slot, int64_t heads) {
  const moe_dim &width = dim_of(in, slot, 1);
  if (width.factor % heads != 0)
    throw Error(MOE_SHAPE_MISMATCH, operand_name(in, slot), "a width that " + std::to_string(heads) + " heads divide",
                print_type(type_of(in, slot), in.symbols));
  return width.factor / heads;
}

}  // namespace

void embed(Inference &in) {
  want_dtype(in, 0, MOE_I32);
  want_shape(in, 0, {"tokens"});
  want_float(in, 1);
  want_shape(in, 1, {"vocabulary", "width"});
  want_constant(in, 1);
  set_output(in, 0, make_type(attributes_of<moe_embed>(in).dtype, {dim_of(in, 0, 0), dim_of(in, 1, 1)}));
}

void norm(Inference &in) {
  moe_norm &norm = attributes_of<moe_norm>(in);
  for (const int slot : {0, 1, 2, 3}) want_float(in, slot);
  want_shape(in, 0, {"tokens", "width"});
  const int64_t whole = dim_of(in, 0, 1).factor;
  if (norm.width == 0) norm.width = static_cast<int32_t>(whole);
  if (norm.width != whole && whole % norm.width != 0)
    refuse_attribute(in, "width", "a divisor of the last dimension of x, " + std::to_string(whole), norm.width);
  for (const int slot : {1, 2}) {
    want_shape(in, slot, {int64_t{norm.width}});
    want_constant(in, slot);
  }
  if (norm.kind == MOE_RMS) want_presence(in, 2, false, "where kind is 'rms'");
  want_shape(in, 3, {dim_of(in, 0, 0), dim_of(in, 0, 1)});
  set_output(in, 0, type_of(in, 0));
  if (has(in, 3)) set_output(in, 1, type_of(in, 3));
}

void linear(Inference &in) {
  const moe_linear &linear = attributes_of<moe_linear>(in);
  const WeightInfo &weight = *in.input[1]->weight;
  const bool grouped = has(in, 3);
  want_float(in, 0);
  want_shape(in, 0, {"rows", weight.in});
  const bool gated = linear.activation == MOE_SWIGLU || linear.activation == MOE_GEGLU;
  if (gated != weight.gated)
    throw Error(MOE_INVALID_ARGUMENT, "linear.activation",
                weight.gated ? "'swiglu' or 'geglu' for a gated weight"
                             : "an activation without gate for a weight that is not gated",
                in.operation.fields[0].names[static_cast<size_t>(linear.activation)]);
  if (linear.mode == MOE_INT8 && !weight.integer)
    throw Error(MOE_INVALID_ARGUMENT, "linear.mode", "'exact' or 'auto' for a weight in a float form", "'int8'");
  want_dtype(in, 2, MOE_I32);
  want_shape(in, 2, {"rows"});
  want_dtype(in, 3, MOE_I32);
  want_shape(in, 3, {int64_t{weight.slots} + 1});
  if (!grouped) want_presence(in, 2, false, "without offsets");
  if (!grouped && weight.slots != 1)
    refuse_operand(in, 1, "a weight of 1 slot where there are no offsets", std::to_string(weight.slots) + " slots");
  if (grouped) want_presence(in, 4, false, "where offsets are given");
  const moe_dim rows = has(in, 2) ? dim_of(in, 2, 0) : dim_of(in, 0, 0);
  const int64_t out = weight.gated ? weight.out / 2 : weight.out;
  want_float(in, 4);
  want_shape(in, 4, {rows, out});
  set_output(in, 0, make_type(linear.dtype, {rows, fixed_dim(out)}));
}

void rotate(Inference &in) {
  const moe_rotate &rotate = attributes_of<moe_rotate>(in);
  want_float(in, 0);
  want_shape(in, 0, {"tokens", "heads·headDim"});
  const int64_t width = head_width(in, 0, rotate.heads);
  want_dtype(in, 1, MOE_I32);
  want_shape(in, 1, {dim_of(in, 0, 0)});
  want_dtype(in, 2, MOE_F32);
  want_shape(in, 2, {"frequencies"});
  want_constant(in, 2);
  if (dim_of(in, 2, 0).factor > width / 2)
    throw Error(MOE_SHAPE_MISMATCH, operand_name(in, 2),
                "at most " + std::to_string(width / 2) + " frequencies, half a head",
                print_type(type_of(in, 2), in.symbols));
  set_output(in, 0, type_of(in, 0));
}

void map(Inference &in) {
  const int32_t function = attributes_of<moe_map>(in).function;
  want_float(in, 0);
  want_shape(in, 0, {"rows", "width"});
  const bool binary = function == MOE_FUNCTION_ADD || function == MOE_FUNCTION_MULTIPLY;
  want_presence(in, 1, binary, binary ? "where function is 'add' or 'multiply'" : "for a function of one operand");
  want_float(in, 1);
  if (has(in, 1) && type_of(in, 1).rank == 2 && same_dim(dim_of(in, 1, 1), fixed_dim(1)))
    want_shape(in, 1, {dim_of(in, 0, 0), int64_t{1}});
  else
    want_shape(in, 1, {dim_of(in, 0, 0), dim_of(in, 0, 1)});
  set_output(in, 0, type_of(in, 0));
}

void convolve(Inference &in) {
  want_float(in, 0);
  want_shape(in, 0, {"tokens", "channels"});
  const moe_dim &tokens = dim_of(in, 0, 0), &channels = dim_of(in, 0, 1);
  for (const int slot : {1, 2}) {
    want_float(in, slot);
    want_constant(in, slot);
  }
  want_shape(in, 1, {channels, "width"});
  const int64_t width = dim_of(in, 1, 1).factor;
  if (width < 2)
    throw Error(MOE_SHAPE_MISMATCH, operand_name(in, 1), "a width of 2 or more",
                print_type(type_of(in, 1), in.symbols));
  want_shape(in, 2, {channels});
  for (const int slot : {3, 4}) {
    want_dtype(in, slot, MOE_I32);
    want_shape(in, slot, {tokens});
  }
  want_dtype(in, 5, MOE_F32);
  want_shape(in, 5, {"sequences", checked_multiply(width - 1, channels.factor, "convolve.state")});
  want_state(in, 5);
  set_output(in, 0, type_of(in, 0));
}

void attention(Inference &in) {
  moe_attention &attention = attributes_of<moe_attention>(in);
  if (attention.kv_heads == 0) attention.kv_heads = attention.heads;
  if (attention.heads % attention.kv_heads != 0)
    refuse_attribute(in, "kvHeads", "a divisor of heads, " + std::to_string(attention.heads), attention.kv_heads);
  for (const int slot : {0, 1, 2}) want_float(in, slot);
  for (const int slot : {3, 4, 5, 6}) want_dtype(in, slot, MOE_I32);
  const bool quantized = type_of(in, 7).dtype == MOE_I8;
  if (!quantized && !dtype_float(type_of(in, 7).dtype))
    throw Error(MOE_DTYPE_MISMATCH, operand_name(in, 7), "f32, f16, bf16 or i8",
                print_type(type_of(in, 7), in.symbols));
  want_shape(in, 0, {"tokens", "heads·headDim"});
  const moe_dim &tokens = dim_of(in, 0, 0);
  const int64_t width = head_width(in, 0, attention.heads);
  const int64_t kv_width = width * attention.kv_heads;  // at most the width of q
  for (const int slot : {1, 2}) want_shape(in, slot, {tokens, kv_width});
  for (const int slot : {3, 4}) want_shape(in, slot, {tokens});
  want_shape(in, 5, {"sequences"});
  want_shape(in, 6, {"sequences·pages"});
  const moe_dim &sequences = dim_of(in, 5, 0), &pages = dim_of(in, 6, 0);
  if (sequences.symbol == pages.symbol && pages.factor % sequences.factor != 0)
    throw Error(MOE_SHAPE_MISMATCH, operand_name(in, 6),
                "a multiple of " + print_dim(sequences, in.symbols) + " sequences",
                print_type(type_of(in, 6), in.symbols));
  const int64_t cache_width =
      quantized ? checked_add(kv_width, checked_multiply(attention.kv_heads, 4, "kCache"), "kCache") : kv_width;
  want_shape(in, 7, {"pages", "pageSize", cache_width});
  want_dtype(in, 8, type_of(in, 7).dtype);
  want_shape(in, 8, {dim_of(in, 7, 0), dim_of(in, 7, 1), cache_width});
  for (const int slot : {7, 8}) want_state(in, slot);
  if (in.input[7] == in.input[8]) refuse_operand(in, 8, "a state of its own", "that of kCache");
  if (attention.scale == 0) attention.scale = static_cast<float>(1 / __builtin_sqrt(static_cast<double>(width)));
  set_output(in, 0, type_of(in, 0));
}

}  // namespace moe::infer
