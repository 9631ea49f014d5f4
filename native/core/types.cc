#include "core/types.h"

#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/error.h"

namespace moe {

std::string quote(std::string_view text) {
  std::string quoted(1, '\'');
  quoted += text;
  quoted += '\'';
  return quoted;
}

int32_t parse_dtype(std::string_view argument, std::string_view name) {
  for (size_t i = 0; i < dtypes.size(); ++i)
    if (dtypes[i].name == name && i != MOE_I4) return static_cast<int32_t>(i);
  throw Error(MOE_INVALID_ARGUMENT, argument, "f32, f16, bf16, f64, i32, i8 or u8", quote(name));
}

bool same_dim(const moe_dim &a, const moe_dim &b) {
  const bool both_fixed = a.symbol < 0 && b.symbol < 0;
  return a.factor == b.factor && (both_fixed || a.symbol == b.symbol);
}

bool same_shape(const moe_type &a, const moe_type &b) {
  if (a.rank != b.rank) return false;
  for (int32_t i = 0; i < a.rank; ++i)
    if (!same_dim(a.dim[i], b.dim[i])) return false;
  return true;
}

moe_dim fixed_dim(int64_t size) { return {size, -1}; }

moe_type make_type(int32_t dtype, std::initializer_list<moe_dim> dims) {
  moe_type type{};
  type.dtype = dtype;
  for (const moe_dim &dim : dims) type.dim[type.rank++] = dim;
  for (int32_t i = type.rank; i < MOE_MAX_RANK; ++i) type.dim[i] = fixed_dim(1);
  return type;
}

std::string print_dim(const moe_dim &dim, std::span<const std::string> symbols) {
  if (dim.symbol < 0 || static_cast<size_t>(dim.symbol) >= symbols.size()) return std::to_string(dim.factor);
  const std::string &name = symbols[static_cast<size_t>(dim.symbol)];
  return dim.factor == 1 ? name : std::to_string(dim.factor) + "·" + name;
}

std::string print_shape(const moe_type &type, std::span<const std::string> symbols) {
  std::string text = "[";
  for (int32_t i = 0; i < type.rank; ++i) {
    if (i > 0) text += ", ";
    text += print_dim(type.dim[i], symbols);
  }
  return text + "]";
}

std::string print_type(const moe_type &type, std::span<const std::string> symbols) {
  return print_shape(type, symbols) + " " + std::string(dtypes[static_cast<size_t>(type.dtype)].name);
}

int64_t dim_size(const moe_dim &dim, std::span<const int64_t> sizes) {
  if (dim.symbol < 0) return dim.factor;
  return checked_multiply(dim.factor, sizes[static_cast<size_t>(dim.symbol)], "dimension");
}

int64_t element_count(const moe_type &type, std::span<const int64_t> sizes) {
  int64_t count = 1;
  for (int32_t i = 0; i < type.rank; ++i) count = checked_multiply(count, dim_size(type.dim[i], sizes), "shape");
  return count;
}

int64_t type_bytes(const moe_type &type, std::span<const int64_t> sizes) {
  const int64_t bits = dtypes[static_cast<size_t>(type.dtype)].bits;
  return ceil_divide(checked_multiply(element_count(type, sizes), bits, "shape"), 8);
}

}  // namespace moe
