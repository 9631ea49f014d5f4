// Rows of one plain form to another by way of f32: widening is exact, narrowing and quantizing (quantize.cc) round once.
// Layout: values [rows, columns] tightly packed (an I4 row is ceil(columns / 2) bytes), scale and offset [rows, groups].
// Bound: memory, one read of the source and one write of the target; equal forms are copied or handed through.
#include "core/convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/quantize.h"
#include "core/types.h"
#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/error.h"
#include "moe/half.h"
#include "moe/weight_spec.h"

namespace moe {
namespace {

template <typename Element>
Element load(const void *from, int64_t index) {
  Element element;
  std::memcpy(&element, static_cast<const std::byte *>(from) + index * static_cast<int64_t>(sizeof element),
              sizeof element);
  return element;
}

// `count` elements of a float dtype or of I8, from element `first` on, to f32.
void widen(int32_t dtype, const void *from, int64_t first, int64_t count, float *to) {
  switch (dtype) {
    case MOE_F16:
      for (int64_t i = 0; i < count; ++i) to[i] = f16_to_f32(load<uint16_t>(from, first + i));
      return;
    case MOE_BF16:
      for (int64_t i = 0; i < count; ++i) to[i] = bf16_to_f32(load<uint16_t>(from, first + i));
      return;
    case MOE_I8:
      for (int64_t i = 0; i < count; ++i) to[i] = load<int8_t>(from, first + i);
      return;
    default:
      std::memcpy(to, static_cast<const std::byte *>(from) + first * 4, static_cast<size_t>(count) * 4);
  }
}

// f32 to a row of a float dtype; a finite value that f16 cannot hold is refused.
void narrow(int32_t dtype, const float *from, int64_t count, std::byte *to, int64_t row) {
  if (dtype == MOE_F32) {
    std::memcpy(to, from, static_cast<size_t>(count) * 4);
    return;
  }
  bool lost = false;
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits = dtype == MOE_F16 ? f32_to_f16(from[i]) : f32_to_bf16(from[i]);
    lost = lost || (dtype == MOE_F16 && (bits & 0x7fffu) == 0x7c00u && std::isfinite(from[i]));
    std::memcpy(to + i * 2, &bits, 2);
  }
  if (lost)
    throw Error(MOE_UNSUPPORTED, "row " + std::to_string(row),
                "values within ±65504 for store f16 (or store bf16, f32)", "a larger one");
}

// One row of a quantized form to f32.
void dequantize_row(const moe_part &form, const moe_plain &source, int64_t row, int64_t columns, float *to) {
  const int64_t groups = group_count(form, columns), group = form.group == 0 ? columns : group_values(form);
  const auto *codes = static_cast<const std::byte *>(source.values) + row * row_bytes(form, columns).values;
  float outer = 1;
  if (form.outer >= 0) widen(form.outer, source.outer, row, 1, &outer);
  for (int64_t g = 0; g < groups; ++g) {
    float scale, offset = 0;
    widen(form.scale, source.scale, row * groups + g, 1, &scale);
    if (form.offset >= 0) widen(form.offset, source.offset, row * groups + g, 1, &offset);
    const int64_t end = std::min(columns, (g + 1) * group);
    // scale · code is exact under an outer scale.
    for (int64_t k = g * group; k < end; ++k)
      to[k] = outer * (scale * static_cast<float>(code_of(form.store, codes, k))) - offset;
  }
}

bool aligned(const void *address, int32_t dtype) {
  return reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(dtype_bytes(dtype, 1)) == 0;
}

[[noreturn]] void refuse_form(std::string_view argument, std::string_view field, std::string_view expected,
                              const std::string &received) {
  throw Error(MOE_INVALID_ARGUMENT, std::string(argument) + "." + std::string(field), expected, received);
}

void copy_bytes(void *to, const void *from, int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

}  // namespace

moe_part make_form(std::string_view argument, std::string_view store, std::string_view scale, bool offset, double group,
                   std::string_view outer) {
  moe_part form = float_part(-1);
  for (const int32_t dtype : {MOE_F32, MOE_F16, MOE_BF16, MOE_I8, MOE_I4})
    if (dtypes[static_cast<size_t>(dtype)].name == store) form.store = dtype;
  if (form.store < 0) refuse_form(argument, "store", "'f32', 'f16', 'bf16', 'i8' or 'i4'", quote(store));
  const bool known_group = group == 0 || group == 32 || group == 64 || group == 128;
  if (!known_group) refuse_form(argument, "group", "0, 32, 64 or 128", std::to_string(group));
  if (!outer.empty()) {
    if (outer != "f16" && outer != "f32") refuse_form(argument, "outer", "'f16' or 'f32'", quote(outer));
    if (form.store != MOE_I4) refuse_form(argument, "outer", "nothing but for store 'i4'", quote(outer));
    if (!scale.empty() && scale != "i8") refuse_form(argument, "scale", "'i8' under an outer scale", quote(scale));
    if (offset) refuse_form(argument, "offset", "false under an outer scale", "true");
    if (group == 0) refuse_form(argument, "group", "32, 64 or 128 under an outer scale", "0");
    form.scale = MOE_I8;
    form.outer = outer == "f16" ? MOE_F16 : MOE_F32;
    form.group = static_cast<int32_t>(group);
    return form;
  }
  if (!scale.empty() && scale != "f16" && scale != "f32")
    refuse_form(argument, "scale", "'f16' or 'f32'", quote(scale));
  if (!integer_store(form.store)) {
    if (!scale.empty()) refuse_form(argument, "scale", "nothing for a float store", quote(scale));
    if (offset) refuse_form(argument, "offset", "false for a float store", "true");
    if (group != 0) refuse_form(argument, "group", "0 for a float store", std::to_string(static_cast<int64_t>(group)));
    return form;
  }
  form.scale = scale == "f32" || (scale.empty() && form.store == MOE_I8) ? MOE_F32 : MOE_F16;
  form.offset = offset ? form.scale : -1;
  form.group = static_cast<int32_t>(group);
  return form;
}

bool same_form(const moe_part &a, const moe_part &b) {
  return a.store == b.store && a.scale == b.scale && a.offset == b.offset && a.outer == b.outer && a.group == b.group &&
         (a.group == 0 || group_values(a) == group_values(b));
}

void convert_rows(const moe_part &from, const moe_plain &source, const moe_part &to, const PlainTarget &target,
                  int64_t rows, int64_t columns, int64_t first_row) {
  check_store(from);
  check_store(to);
  if (rows < 0 || columns < 1)
    throw Error(MOE_INVALID_ARGUMENT, "rows", "rows ≥ 0 and columns ≥ 1",
                std::to_string(rows) + " rows, " + std::to_string(columns) + " columns");
  const RowBytes to_bytes = row_bytes(to, columns);
  if (same_form(from, to)) {
    copy_bytes(target.values, source.values, checked_multiply(rows, to_bytes.values, "rows"));
    copy_bytes(target.scale, source.scale, rows * to_bytes.scale);
    copy_bytes(target.offset, source.offset, rows * to_bytes.offset);
    copy_bytes(target.outer, source.outer, rows * to_bytes.outer);
    return;
  }
  std::vector<float> wide(static_cast<size_t>(columns));
  QuantizeSpace space;
  for (int64_t row = 0; row < rows; ++row) {
    if (integer_store(from.store))
      dequantize_row(from, source, row, columns, wide.data());
    else
      widen(from.store, source.values, row * columns, columns, wide.data());
    std::byte *values = static_cast<std::byte *>(target.values) + row * to_bytes.values;
    const auto place = [&](void *into, int64_t bytes) {
      return bytes == 0 ? nullptr : static_cast<std::byte *>(into) + row * bytes;
    };
    if (integer_store(to.store))
      quantize_row(to, wide.data(), columns,
                   {values, place(target.scale, to_bytes.scale), place(target.offset, to_bytes.offset),
                    place(target.outer, to_bytes.outer)},
                   first_row + row, space);
    else
      narrow(to.store, wide.data(), columns, values, first_row + row);
  }
}

moe_plain convert_rows(const moe_part &from, const moe_plain &source, const moe_part &to, PlainRows &storage,
                       int64_t rows, int64_t columns, int64_t first_row) {
  const bool usable = aligned(source.values, from.store) && (from.scale < 0 || aligned(source.scale, from.scale)) &&
                      (from.offset < 0 || aligned(source.offset, from.offset)) &&
                      (from.outer < 0 || aligned(source.outer, from.outer));
  check_store(from);
  check_store(to);
  if (same_form(from, to) && usable) return source;
  const RowBytes bytes = row_bytes(to, columns);
  const auto room = [&](std::vector<std::byte> &storage, int64_t each) {
    storage.resize(static_cast<size_t>(checked_multiply(rows, each, "rows")));
    return each == 0 ? nullptr : storage.data();
  };
  const PlainTarget target{room(storage.values, bytes.values), room(storage.scale, bytes.scale),
                           room(storage.offset, bytes.offset), room(storage.outer, bytes.outer)};
  convert_rows(from, source, to, target, rows, columns, first_row);
  return {target.values, target.scale, target.offset, target.outer, source.index};
}

}  // namespace moe
