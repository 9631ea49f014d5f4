// Banks as they are given: the plain form of every slot, and the value that each element means.
//   float stores: w[n, k] = value; integer stores: w[n, k] = scale[n, k / group] · code[n, k] − offset[n, k / group],
//   in doubles.
// Layout: values [out, in] a slot (an I4 row is ceil(in / 2) bytes, even index low), scale and offset [out, groups].
#include <cstring>

#include "reference.h"

namespace {

using moe::Error;
using moe::reference::expect;

constexpr int64_t most = int64_t{1} << 40;  // of one width; products are checked besides

void expect_base(const moe_part &part) {
  if (part.kind != MOE_PART_BASE)
    throw Error(MOE_INVALID_ARGUMENT, "parts", "the base first", "kind " + std::to_string(part.kind));
  if (moe::dtype_float(part.store)) {
    expect(part.scale == -1, "scale", "-1: a float store has no scale", part.scale);
    expect(part.offset == -1, "offset", "-1: a float store has no offset", part.offset);
    expect(part.group == 0, "group", "0: a float store has no groups", part.group);
    return;
  }
  expect(part.store == MOE_I8 || part.store == MOE_I4, "store", "the dtype f32, f16, bf16, i8 or i4", part.store);
  expect(part.scale == MOE_F16 || part.scale == MOE_F32, "scale", "the dtype f16 or f32", part.scale);
  expect(part.offset == -1 || part.offset == part.scale, "offset", "-1 or the dtype of scale", part.offset);
  expect(part.group == 0 || part.group == 32 || part.group == 64 || part.group == 128, "group", "0, 32, 64 or 128",
         part.group);
}

void expect_bias(const moe_part &part) {
  expect(part.kind == MOE_PART_BIAS, "parts", "a bias second", part.kind);
  expect(part.store == MOE_F32, "store", "f32 for a bias", part.store);
  expect(part.scale == -1 && part.offset == -1 && part.group == 0, "parts", "a bias without scale, offset and group",
         part.group);
}

struct Bytes {
  int64_t values, scale, offset;
};

// Bytes of one row of a part.
Bytes row_bytes(const moe_part &part, int64_t in, int64_t groups) {
  if (part.kind == MOE_PART_BIAS) return {4, 0, 0};
  const auto of = [&](int32_t dtype) { return dtype < 0 ? 0 : moe::dtype_bytes(dtype, groups); };
  return {moe::dtype_bytes(part.store, in), of(part.scale), of(part.offset)};
}

int64_t groups_of(const moe_part &base, int64_t in) { return base.group > 0 ? moe::ceil_divide(in, base.group) : 1; }

// Checks the whole spec; the bytes that the bank will hold.
int64_t expect_spec(const moe_weight_spec &spec) {
  expect(spec.in >= 1 && spec.in <= most, "in", "a width from 1 to 2^40", spec.in);
  expect(spec.out >= 1 && spec.out <= most, "out", "a width from 1 to 2^40", spec.out);
  expect(spec.slots >= 1, "slots", "at least 1", spec.slots);
  expect(spec.gated == 0 || spec.gated == 1, "gated", "0 or 1", spec.gated);
  expect(spec.gated == 0 || spec.out % 2 == 0, "out", "an even width of a gated bank", spec.out);
  expect(spec.part_count == 1 || spec.part_count == 2, "parts", "a base, and a bias or not", spec.part_count);
  if (spec.parts == nullptr) throw Error(MOE_INVALID_ARGUMENT, "parts", "parts", "NULL");
  expect_base(spec.parts[0]);
  if (spec.part_count == 2) expect_bias(spec.parts[1]);
  int64_t bytes = 0;
  for (int32_t s = 0; s < spec.slots; ++s) {
    const int64_t in = spec.in_of == nullptr ? spec.in : spec.in_of[s],
                  out = spec.out_of == nullptr ? spec.out : spec.out_of[s];
    expect(in >= 0 && in <= spec.in, "inOf", "widths from 0 to " + std::to_string(spec.in), in);
    expect(out >= 0 && out <= spec.out, "outOf", "widths from 0 to " + std::to_string(spec.out), out);
    expect(spec.gated == 0 || out % 2 == 0, "outOf", "even widths of a gated bank", out);
    for (int32_t i = 0; i < spec.part_count; ++i) {
      const Bytes row = row_bytes(spec.parts[i], in, groups_of(spec.parts[0], in));
      bytes =
          moe::checked_add(bytes, moe::checked_multiply(out, row.values + row.scale + row.offset, "bytes"), "bytes");
    }
  }
  return bytes;
}

}  // namespace

moe_weight::moe_weight(std::shared_ptr<moe_device> owner, const moe_weight_spec &spec)
    : device(std::move(owner)),
      in(spec.in),
      out(spec.out),
      bytes(expect_spec(spec)),
      gated(spec.gated != 0),
      base(spec.parts[0]),
      charge(device, bytes) {
  for (int32_t s = 0; s < spec.slots; ++s) {
    Slot slot{spec.in_of == nullptr ? in : spec.in_of[s], spec.out_of == nullptr ? out : spec.out_of[s], 0, {}};
    slot.groups = groups_of(base, slot.in);
    for (int32_t i = 0; i < spec.part_count; ++i) {
      const Bytes row = row_bytes(spec.parts[i], slot.in, slot.groups);
      const auto sized = [&](int64_t each) { return std::vector<std::byte>(static_cast<size_t>(each * slot.out)); };
      slot.parts.push_back({spec.parts[i], sized(row.values), sized(row.scale), sized(row.offset),
                            std::vector<bool>(static_cast<size_t>(slot.out))});
    }
    slots.push_back(std::move(slot));
  }
}

void moe_weight::put(int32_t part, int32_t slot, int64_t row, int64_t rows, const moe_plain &plain) {
  if (finished) throw Error(MOE_INVALID_ARGUMENT, "weight", "rows before finish", "a finished weight");
  expect(slot >= 0 && slot < static_cast<int64_t>(slots.size()), "slot", "a slot below " + std::to_string(slots.size()),
         slot);
  Slot &to = slots[static_cast<size_t>(slot)];
  expect(part >= 0 && part < static_cast<int64_t>(to.parts.size()), "part",
         "a part below " + std::to_string(to.parts.size()), part);
  expect(rows >= 0 && rows <= to.out, "rows", "from 0 to " + std::to_string(to.out) + " rows", rows);
  expect(row >= 0 && row <= to.out - rows, "row", "a first row from 0 to " + std::to_string(to.out - rows), row);
  Part &kept = to.parts[static_cast<size_t>(part)];
  const Bytes each = row_bytes(kept.form, to.in, to.groups);
  for (int64_t r = row; r < row + rows; ++r) expect(!kept.present[static_cast<size_t>(r)], "row", "each row once", r);
  const auto copy = [&](std::vector<std::byte> &into, const void *from, int64_t bytes_each, const char *name) {
    if (bytes_each * rows == 0) return;
    if (from == nullptr) throw Error(MOE_INVALID_ARGUMENT, name, "rows", "NULL");
    std::memcpy(into.data() + row * bytes_each, from, static_cast<size_t>(bytes_each * rows));
  };
  copy(kept.values, plain.values, each.values, "values");
  copy(kept.scale, plain.scale, each.scale, "scale");
  copy(kept.offset, plain.offset, each.offset, "offset");
  for (int64_t r = row; r < row + rows; ++r) kept.present[static_cast<size_t>(r)] = true;
}

void moe_weight::finish() {
  int64_t missing = 0, all = 0;
  for (const Slot &slot : slots) {
    for (const Part &part : slot.parts) {
      for (const bool present : part.present) missing += present ? 0 : 1, ++all;
    }
  }
  if (missing > 0) {
    throw Error(MOE_INVALID_ARGUMENT, "rows", "all " + std::to_string(all) + " rows of the bank",
                std::to_string(missing) + " rows missing");
  }
  finished = true;
}

const moe_weight::Part *moe_weight::part(int64_t slot, int32_t kind) const {
  for (const Part &part : slots[static_cast<size_t>(slot)].parts) {
    if (part.form.kind == kind) return &part;
  }
  return nullptr;
}

int32_t moe_weight::code(const Part &part, const Slot &slot, int64_t row, int64_t k) const {
  const std::byte *at = part.values.data() + row * moe::dtype_bytes(part.form.store, slot.in);
  if (part.form.store == MOE_I8) return static_cast<int8_t>(at[k]);
  const int nibble = (static_cast<int>(at[k / 2]) >> (k % 2 * 4)) & 15;
  return nibble < 8 ? nibble : nibble - 16;
}

double moe_weight::scale(const Part &part, const Slot &slot, int64_t row, int64_t block) const {
  return moe::reference::load(part.form.scale, part.scale.data(), row * slot.groups + block);
}

double moe_weight::offset(const Part &part, const Slot &slot, int64_t row, int64_t block) const {
  return part.form.offset < 0 ? 0
                              : moe::reference::load(part.form.offset, part.offset.data(), row * slot.groups + block);
}

void moe_weight::decode(int64_t which, int64_t row, double *to) const {
  const Slot &slot = slots[static_cast<size_t>(which)];
  const Part &values = *part(which, MOE_PART_BASE);
  for (int64_t k = 0; k < slot.in; ++k) {
    if (integer()) {
      to[k] =
          scale(values, slot, row, k / group()) * code(values, slot, row, k) - offset(values, slot, row, k / group());
    } else {
      to[k] = moe::reference::load(values.form.store, values.values.data(), row * slot.in + k);
    }
  }
}

double moe_weight::bias(int64_t slot, int64_t row) const {
  const Part *values = part(slot, MOE_PART_BIAS);
  return values == nullptr ? 0 : moe::reference::load(MOE_F32, values->values.data(), row);
}
