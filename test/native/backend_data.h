// Host data of the backend tests: arrays in every dtype, and banks in the plain form with the value that each element
// means.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/error.h"
#include "moe/half.h"
#include "moe/part.h"

namespace moe::test {

// A dimension: a plain number, or factor × a symbol's size (`symbol(0)`, `symbol(0, 2)`).
struct Dim {
  Dim(int64_t size) : factor(size) {}  // NOLINT(google-explicit-constructor)
  Dim(int64_t size, int32_t index) : factor(size), symbol(index) {}
  int64_t factor;
  int32_t symbol = -1;
};
inline Dim symbol(int32_t index, int64_t factor = 1) { return {factor, index}; }
using Shape = std::vector<Dim>;

inline int64_t elements(const Shape &shape, const std::vector<int64_t> &sizes) {
  int64_t count = 1;
  for (const Dim &dim : shape) count *= dim.factor * (dim.symbol < 0 ? 1 : sizes.at(static_cast<size_t>(dim.symbol)));
  return count;
}

// Elements on the host in their own dtype (not I4).
struct Array {
  int32_t dtype = MOE_F32;
  Shape shape;
  std::vector<std::byte> bytes;

  int64_t size() const { return static_cast<int64_t>(bytes.size()) * 8 / dtypes[static_cast<size_t>(dtype)].bits; }
  template <typename T>
  T raw(int64_t i) const {
    T value;
    std::memcpy(&value, bytes.data() + static_cast<size_t>(i) * sizeof(T), sizeof(T));
    return value;
  }
  template <typename T>
  void put(int64_t i, T value) {
    std::memcpy(bytes.data() + static_cast<size_t>(i) * sizeof(T), &value, sizeof(T));
  }
  double at(int64_t i) const {
    switch (dtype) {
      case MOE_F32:
        return static_cast<double>(raw<float>(i));
      case MOE_F16:
        return static_cast<double>(f16_to_f32(raw<uint16_t>(i)));
      case MOE_BF16:
        return static_cast<double>(bf16_to_f32(raw<uint16_t>(i)));
      case MOE_F64:
        return raw<double>(i);
      case MOE_I32:
        return raw<int32_t>(i);
      case MOE_I8:
        return raw<int8_t>(i);
      default:
        return raw<uint8_t>(i);
    }
  }
  void set(int64_t i, double value) {
    switch (dtype) {
      case MOE_F32:
        return put(i, static_cast<float>(value));
      case MOE_F16:
        return put(i, f32_to_f16(static_cast<float>(value)));
      case MOE_BF16:
        return put(i, f32_to_bf16(static_cast<float>(value)));
      case MOE_F64:
        return put(i, value);
      case MOE_I32:
        return put(i, static_cast<int32_t>(value));
      case MOE_I8:
        return put(i, static_cast<int8_t>(value));
      default:
        return put(i, static_cast<uint8_t>(value));
    }
  }
  std::vector<double> values() const {
    std::vector<double> all;
    for (int64_t i = 0; i < size(); ++i) all.push_back(at(i));
    return all;
  }
};

// `shape` must be fixed here; give `Case::input` another shape to make dimension 0 a symbol.
inline Array filled(int32_t dtype, Shape shape, double value = 0) {
  Array array{dtype, std::move(shape), {}};
  const int64_t count = elements(array.shape, {});
  array.bytes.resize(static_cast<size_t>(dtype_bytes(dtype, count)));
  for (int64_t i = 0; i < count; ++i) array.set(i, value);
  return array;
}
inline Array array(int32_t dtype, Shape shape, const std::vector<double> &values) {
  Array made = filled(dtype, std::move(shape));
  if (made.size() != static_cast<int64_t>(values.size()))
    throw Error(MOE_INVALID_ARGUMENT, "values", "one for each element", "another count");
  for (int64_t i = 0; i < made.size(); ++i) made.set(i, values[static_cast<size_t>(i)]);
  return made;
}
inline Array f32(Shape shape, const std::vector<double> &values) { return array(MOE_F32, std::move(shape), values); }
inline Array i32(Shape shape, const std::vector<double> &values) { return array(MOE_I32, std::move(shape), values); }
// Normal values from a seed: the same on every run.
inline Array random_array(int32_t dtype, Shape shape, uint32_t seed, double deviation = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, deviation);
  Array made = filled(dtype, std::move(shape));
  for (int64_t i = 0; i < made.size(); ++i) made.set(i, normal(generator));
  return made;
}
inline Array random_integers(Shape shape, uint32_t seed, int32_t low, int32_t high /* inclusive */) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int32_t> uniform(low, high);
  Array made = filled(MOE_I32, std::move(shape));
  for (int64_t i = 0; i < made.size(); ++i) made.set(i, uniform(generator));
  return made;
}

// ---- weights: the plain form of every slot, and the value that each element means
// ----------------------------------------

struct BankForm {
  int64_t in = 0, out = 0;
  int32_t slots = 1;
  bool gated = false;
  moe_part base = moe::float_part(MOE_F32);
  bool bias = false;
  std::vector<int64_t> in_of{}, out_of{};
};

// Base forms by name: float_part(MOE_BF16); integer_part(MOE_I4, 32, MOE_F16, true).
inline moe_part float_part(int32_t store) { return moe::float_part(store); }
inline moe_part integer_part(int32_t store, int32_t group, int32_t scale = MOE_F16, bool offset = false) {
  return moe::integer_part(store, scale, offset, group);
}

struct Bank {
  struct Slot {
    int64_t in, out, groups, row_bytes;
    std::vector<std::byte> values;
    Array scale, offset, bias;
  };
  BankForm form;
  std::vector<Slot> slots;

  int32_t code(const Slot &slot, int64_t row, int64_t k) const {
    const std::byte *at = slot.values.data() + row * slot.row_bytes;
    if (form.base.store == MOE_I8) return static_cast<int8_t>(at[k]);
    const int nibble = (static_cast<int>(at[k / 2]) >> (k % 2 * 4)) & 15;
    return nibble < 8 ? nibble : nibble - 16;
  }
  // The value of element [row, k] of a slot, as backend.h defines it.
  double weight(int32_t s, int64_t row, int64_t k) const {
    const Slot &slot = slots.at(static_cast<size_t>(s));
    if (form.base.scale < 0) {
      Array view{form.base.store, {}, {}};
      const size_t width = static_cast<size_t>(dtype_bytes(form.base.store, 1));
      const std::byte *at = slot.values.data() + row * slot.row_bytes + static_cast<int64_t>(width) * k;
      view.bytes.assign(at, at + width);
      return view.at(0);
    }
    const int64_t group = row * slot.groups + (form.base.group > 0 ? k / form.base.group : 0);
    const double offset = form.base.offset < 0 ? 0.0 : slot.offset.at(group);
    return slot.scale.at(group) * code(slot, row, k) - offset;
  }
};

// Random content in the given form: float values or codes of the whole range with scales of about 1/range.
inline Bank random_bank(const BankForm &form, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, 1 / std::sqrt(static_cast<double>(std::max<int64_t>(form.in, 1))));
  std::uniform_int_distribution<int> byte(0, 255);
  std::uniform_real_distribution<double> scale(0.5, 1.5);
  Bank bank{form, {}};
  for (int32_t s = 0; s < form.slots; ++s) {
    Bank::Slot slot{};
    slot.in = form.in_of.empty() ? form.in : form.in_of.at(static_cast<size_t>(s));
    slot.out = form.out_of.empty() ? form.out : form.out_of.at(static_cast<size_t>(s));
    slot.groups = form.base.group > 0 ? ceil_divide(slot.in, form.base.group) : 1;
    slot.row_bytes = dtype_bytes(form.base.store, slot.in);
    if (form.base.scale < 0) {
      Array values = filled(form.base.store, {slot.out, slot.in});
      for (int64_t i = 0; i < values.size(); ++i) values.set(i, normal(generator));
      slot.values = std::move(values.bytes);
    } else {
      slot.values.resize(static_cast<size_t>(slot.out * slot.row_bytes));
      for (std::byte &one : slot.values) one = static_cast<std::byte>(byte(generator));
      const double range = (form.base.store == MOE_I8 ? 74.0 : 4.6) * std::sqrt(static_cast<double>(form.in));
      slot.scale = filled(form.base.scale, {slot.out, slot.groups});
      for (int64_t i = 0; i < slot.scale.size(); ++i) slot.scale.set(i, scale(generator) / range);
      if (form.base.offset >= 0) {
        slot.offset = filled(form.base.offset, {slot.out, slot.groups});
        for (int64_t i = 0; i < slot.offset.size(); ++i) slot.offset.set(i, normal(generator) * 0.1);
      }
    }
    if (form.bias) {
      slot.bias = filled(MOE_F32, {slot.out});
      for (int64_t i = 0; i < slot.bias.size(); ++i) slot.bias.set(i, normal(generator));
    }
    bank.slots.push_back(std::move(slot));
  }
  return bank;
}

// A float bank of one slot with these values [out, in].
inline Bank dense_bank(int32_t store, int64_t out, int64_t in, const std::vector<double> &values, bool gated = false) {
  Bank bank = random_bank({in, out, 1, gated, float_part(store)}, 1);
  bank.slots[0].values = array(store, {out, in}, values).bytes;
  return bank;
}

// A bank of any parts: what goes to weight_begin and weight_put. The pointers are the test's own.
struct PlainBank {
  struct Piece {
    int32_t part, slot;
    int64_t row, rows;
    moe_plain plain;
  };
  moe_weight_spec spec{};  // its parts are those below
  std::vector<moe_part> parts;
  std::vector<Piece> pieces;
};

inline moe_weight_spec weight_spec(const BankForm &form, const std::vector<moe_part> &parts) {
  return {form.in,
          form.out,
          form.slots,
          form.gated ? 1 : 0,
          static_cast<int32_t>(parts.size()),
          form.in_of.empty() ? nullptr : form.in_of.data(),
          form.out_of.empty() ? nullptr : form.out_of.data(),
          parts.data(),
          0,
          nullptr};
}
inline std::vector<moe_part> parts_of(const BankForm &form) {
  std::vector<moe_part> parts{form.base};
  if (form.bias) parts.push_back(moe::bias_part());
  return parts;
}

}  // namespace moe::test
