// Banks as they are given: the plain form of every slot of every part, and the value that each element means.
//   float stores: the value; integer stores: scale[n, group] · code[n, j] − offset[n, group], or under an outer scale
//   outer[n] · scale[n, group] · code[n, j], in doubles.
// Layout: as moe_plain of backend.h draws it, each slot of each part in memory of its own.
#include <cstring>

#include "moe/weight_spec.h"
#include "reference.h"

using moe::Error;
using moe::reference::expect;
using moe::reference::load;

namespace {

// The plain bytes of a whole bank.
int64_t plain_bytes(const moe_weight_spec &spec) {
  moe::check_weight_spec(spec);
  int64_t bytes = 0;
  for (int32_t i = 0; i < spec.part_count; ++i) {
    const moe_part &part = spec.parts[i];
    const bool shared = part.kind == MOE_PART_BASE && spec.base_of != nullptr;
    for (int32_t s = 0; s < (shared ? spec.base_slots : spec.slots); ++s) {
      const int64_t in = spec.in_of == nullptr ? spec.in : spec.in_of[s],
                    out = spec.out_of == nullptr ? spec.out : spec.out_of[s];
      const moe::RowBytes row = moe::row_bytes(part, moe::part_columns(part, s, in));
      bytes = moe::checked_add(bytes, moe::checked_multiply(moe::part_rows(part, s, out), row.all(), "bytes"), "bytes");
    }
  }
  return bytes;
}

moe_weight::Matrix make_matrix(const moe_part &form, int64_t slot, int64_t in, int64_t out) {
  const int64_t rows = moe::part_rows(form, slot, out), columns = moe::part_columns(form, slot, in);
  const moe::RowBytes row = moe::row_bytes(form, columns);
  const auto sized = [&](int64_t each) { return std::vector<std::byte>(static_cast<size_t>(each * rows)); };
  moe_weight::Matrix made{form,
                          rows,
                          columns,
                          sized(row.values),
                          sized(row.scale),
                          sized(row.offset),
                          sized(row.outer),
                          sized(row.index),
                          std::vector<bool>(static_cast<size_t>(rows))};
  made.form.ragged = nullptr;
  return made;
}

}  // namespace

moe_weight::moe_weight(std::shared_ptr<moe_device> owner, const moe_weight_spec &spec)
    : device(std::move(owner)),
      in(spec.in),
      out(spec.out),
      slots(spec.slots),
      bytes(plain_bytes(spec)),
      gated(spec.gated != 0),
      charge(device, bytes) {
  for (int32_t s = 0; s < spec.slots; ++s) {
    in_of.push_back(spec.in_of == nullptr ? in : spec.in_of[s]);
    out_of.push_back(spec.out_of == nullptr ? out : spec.out_of[s]);
    base_of.push_back(spec.base_of == nullptr ? s : spec.base_of[s]);
  }
  for (int32_t i = 0; i < spec.part_count; ++i) {
    const moe_part &form = spec.parts[i];
    const bool shared = form.kind == MOE_PART_BASE && spec.base_of != nullptr;
    Part &part = parts.emplace_back(form, std::vector<Matrix>{});
    for (int32_t s = 0; s < (shared ? spec.base_slots : spec.slots); ++s)
      part.slots.push_back(make_matrix(form, s, in_of[static_cast<size_t>(s)], out_of[static_cast<size_t>(s)]));
    part.form.ragged = nullptr;
  }
}

void moe_weight::put(int32_t part, int32_t slot, int64_t row, int64_t rows, const moe_plain &plain) {
  if (finished) throw Error(MOE_INVALID_ARGUMENT, "weight", "rows before finish", "a finished weight");
  expect(part >= 0 && part < static_cast<int64_t>(parts.size()), "part", "a part below " + std::to_string(parts.size()),
         part);
  std::vector<Matrix> &matrices = parts[static_cast<size_t>(part)].slots;
  expect(slot >= 0 && slot < static_cast<int64_t>(matrices.size()), "slot",
         "a slot below " + std::to_string(matrices.size()), slot);
  Matrix &to = matrices[static_cast<size_t>(slot)];
  expect(rows >= 0 && rows <= to.rows, "rows", "from 0 to " + std::to_string(to.rows) + " rows", rows);
  expect(row >= 0 && row <= to.rows - rows, "row", "a first row from 0 to " + std::to_string(to.rows - rows), row);
  for (int64_t r = row; r < row + rows; ++r) expect(!to.present[static_cast<size_t>(r)], "row", "each row once", r);
  const moe::RowBytes each = moe::row_bytes(to.form, to.columns);
  const auto given = [&](const void *from, int64_t bytes_each, const char *name) {
    if (bytes_each * rows > 0 && from == nullptr) throw Error(MOE_INVALID_ARGUMENT, name, "rows", "NULL");
  };
  given(plain.values, each.values, "values");
  given(plain.scale, each.scale, "scale");
  given(plain.offset, each.offset, "offset");
  given(plain.outer, each.outer, "outer");
  given(plain.index, each.index, "index");
  // Only SPARSE parts look at the inputs, and each slot of one has as many as its index of the slot says.
  moe::check_plain(to.form, in_of[static_cast<size_t>(slot)], to.columns, rows, plain);
  const auto copy = [&](std::vector<std::byte> &into, const void *from, int64_t bytes_each) {
    if (bytes_each * rows > 0)
      std::memcpy(into.data() + row * bytes_each, from, static_cast<size_t>(bytes_each * rows));
  };
  copy(to.values, plain.values, each.values);
  copy(to.scale, plain.scale, each.scale);
  copy(to.offset, plain.offset, each.offset);
  copy(to.outer, plain.outer, each.outer);
  copy(to.index, plain.index, each.index);
  for (int64_t r = row; r < row + rows; ++r) to.present[static_cast<size_t>(r)] = true;
}

void moe_weight::finish() {
  int64_t missing = 0, all = 0;
  for (const Part &part : parts) {
    for (const Matrix &matrix : part.slots) {
      for (const bool present : matrix.present) missing += present ? 0 : 1, ++all;
    }
  }
  if (missing > 0) {
    throw Error(MOE_INVALID_ARGUMENT, "rows", "all " + std::to_string(all) + " rows of the bank",
                std::to_string(missing) + " rows missing");
  }
  for (const Part &part : parts) {
    for (size_t s = 0; part.form.kind == MOE_PART_ROWS && s < part.slots.size(); ++s) {
      const Matrix &kept = part.slots[s];
      moe::check_kept_rows(reinterpret_cast<const int32_t *>(kept.index.data()), kept.rows, out_of[s]);
    }
  }
  finished = true;
}

const moe_weight::Matrix *moe_weight::matrix(int32_t kind, int64_t slot) const {
  for (const Part &part : parts) {
    if (part.form.kind != kind) continue;
    return &part.slots[static_cast<size_t>(kind == MOE_PART_BASE ? base_of[static_cast<size_t>(slot)] : slot)];
  }
  return nullptr;
}

bool moe_weight::integer() const {
  bool any = false;
  for (const Part &part : parts) any = any || moe::integer_store(part.form.store);
  return any;
}

int32_t moe_weight::Matrix::code(int64_t row, int64_t j) const {
  const int32_t code = moe::code_of(form.store, values.data() + row * moe::dtype_bytes(form.store, columns), j);
  if (form.outer < 0) return code;
  const int64_t groups = moe::group_count(form, columns);
  return code * static_cast<int32_t>(load(form.scale, scale.data(), row * groups + j / form.group));
}

double moe_weight::Matrix::scale_of(int64_t row, int64_t block) const {
  if (form.outer >= 0) return load(form.outer, outer.data(), row);
  return load(form.scale, scale.data(), row * moe::group_count(form, columns) + block);
}

double moe_weight::Matrix::offset_of(int64_t row, int64_t block) const {
  return form.offset < 0 ? 0 : load(form.offset, offset.data(), row * moe::group_count(form, columns) + block);
}

double moe_weight::Matrix::value(int64_t row, int64_t j) const {
  if (!integer()) return load(form.store, values.data(), row * columns + j);
  const int64_t at = block() == 0 ? 0 : column(row, j) / block();
  return scale_of(row, at) * code(row, j) - offset_of(row, at);
}

int64_t moe_weight::Matrix::column(int64_t row, int64_t j) const {
  if (form.kind != MOE_PART_SPARSE) return j;
  return j / form.n * form.m + static_cast<int64_t>(index[static_cast<size_t>(row * columns + j)]);
}
