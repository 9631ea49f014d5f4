#include "linear/bank.h"

#include <algorithm>
#include <string>

#include "host/check.h"
#include "moe/checked.h"
#include "moe/error.h"
#include "moe/weight_spec.h"

namespace moe::cuda {
namespace {

void expect(bool holds, std::string_view argument, const std::string &expected, int64_t received) {
  if (!holds) throw Error(MOE_INVALID_ARGUMENT, argument, expected, std::to_string(received));
}

int64_t panels_of(bool gated, int64_t outputs) {
  return gated ? ceil_divide(outputs / 2, panel_rows / 2) : ceil_divide(outputs, panel_rows);
}

template <typename T>
Memory send(const std::shared_ptr<Device> &device, const std::vector<T> &values) {
  Memory memory(device, values.size() * sizeof(T));
  MOE_CUDA(cudaMemcpy(memory.data(), values.data(), memory.bytes(), cudaMemcpyHostToDevice));
  return memory;
}

}  // namespace

Bank::Bank(std::shared_ptr<Device> device, const moe_weight_spec &spec)
    : device_(std::move(device)), in_(spec.in), out_(spec.out), slots_(spec.slots), gated_(spec.gated != 0) {
  check_weight_spec(spec);
  expect(in_ <= INT32_MAX && out_ <= INT32_MAX, "weight", "widths below 2^31", std::max(in_, out_));
  panels_ = static_cast<int32_t>(panels_of(gated_, out_));
  int64_t row = 0;
  for (int32_t s = 0; s < slots_; ++s) {
    const int64_t in = spec.in_of ? spec.in_of[s] : in_, out = spec.out_of ? spec.out_of[s] : out_;
    in_of_.push_back(in);
    PackedSlot output;
    output.rows = static_cast<int32_t>(out);
    output.columns = static_cast<int32_t>(in);
    output.panels = static_cast<int32_t>(panels_of(gated_, out));
    output.row = row;
    row += int64_t{output.panels} * panel_rows;
    outputs_.push_back(output);
  }
  for (int32_t p = 0; p < spec.part_count; ++p) make_part(spec.parts[p], spec);
}

void Bank::make_part(const moe_part &form, const moe_weight_spec &spec) {
  Part part{form, {}, {}};
  part.form.ragged = nullptr;
  integer_ = integer_ || integer_store(form.store);
  const bool shared = form.kind == MOE_PART_BASE && spec.base_of != nullptr;
  for (size_t s = 0; s < static_cast<size_t>(shared ? spec.base_slots : slots_); ++s) {
    const int64_t slot = static_cast<int64_t>(s);
    part.shapes.push_back({part_rows(form, slot, outputs_[s].rows), part_columns(form, slot, in_of_[s])});
    part.rows_put.emplace_back(static_cast<size_t>(part.shapes.back().rows));
  }
  const bool of_outputs = form.kind == MOE_PART_BASE || form.kind == MOE_PART_FACTOR_OUT;
  const auto stack = [&](std::vector<int32_t> slot_of = {}) {
    return PackedStack({form.store, form.scale, form.outer, form.group, form.offset >= 0, of_outputs && gated_},
                       part.shapes, std::move(slot_of));
  };
  switch (form.kind) {
    case MOE_PART_BASE:
      base_ = shared ? stack(std::vector<int32_t>(spec.base_of, spec.base_of + slots_)) : stack();
      break;
    case MOE_PART_BIAS:
      bias_.resize(static_cast<size_t>(outputs_.back().row + int64_t{outputs_.back().panels} * panel_rows));
      break;
    case MOE_PART_FACTOR_IN:
      factor_in_ = stack();
      break;
    case MOE_PART_FACTOR_OUT:
      factor_out_ = stack();
      break;
    case MOE_PART_ROWS:
      kept_rows_ = stack();
      for (const PackedStack::Shape &shape : part.shapes) kept_index_.emplace_back(static_cast<size_t>(shape.rows));
      break;
    default: {
      std::vector<PackedStack::Shape> shapes;
      for (const PackedSlot &output : outputs_) shapes.push_back({output.rows, output.columns});
      sparse_ = SparseStack(form, gated_, shapes);
    }
  }
  parts_.push_back(std::move(part));
}

void Bank::put(int32_t index, int32_t slot, int64_t row, int64_t rows, const moe_plain &plain) {
  expect(!finished_, "weight", "one that is not finished", 1);
  expect(index >= 0 && index < static_cast<int32_t>(parts_.size()), "part", "a part of the bank", index);
  Part &part = parts_[static_cast<size_t>(index)];
  const auto s = static_cast<size_t>(slot);
  expect(slot >= 0 && s < part.shapes.size(), "slot", "a slot of the part", slot);
  const PackedStack::Shape &shape = part.shapes[s];
  expect(row >= 0 && rows >= 0 && row <= shape.rows && rows <= shape.rows - row, "row",
         "rows within " + std::to_string(shape.rows), row);
  const RowBytes each = row_bytes(part.form, shape.columns);
  const auto given = [&](const void *from, int64_t bytes, const char *name) {
    if (bytes * rows > 0 && from == nullptr) throw Error(MOE_INVALID_ARGUMENT, name, "an address", "NULL");
  };
  given(plain.values, each.values, "values");
  given(plain.scale, each.scale, "scale");
  given(plain.offset, each.offset, "offset");
  given(plain.outer, each.outer, "outer");
  given(plain.index, each.index, "index");
  check_plain(part.form, in_of_[s], shape.columns, rows, plain);
  for (int64_t r = row; r < row + rows; ++r) {
    expect(!part.rows_put[s][static_cast<size_t>(r)], "row", "each row once", r);
    part.rows_put[s][static_cast<size_t>(r)] = true;
  }
  switch (part.form.kind) {
    case MOE_PART_BASE:
      return base_.put(slot, row, rows, plain);
    case MOE_PART_BIAS:
      return put_biases(slot, row, rows, static_cast<const float *>(plain.values));
    case MOE_PART_FACTOR_IN:
      return factor_in_.put(slot, row, rows, plain);
    case MOE_PART_FACTOR_OUT:
      return factor_out_.put(slot, row, rows, plain);
    case MOE_PART_ROWS:
      std::copy_n(static_cast<const int32_t *>(plain.index), rows, kept_index_[s].begin() + row);
      return kept_rows_.put(slot, row, rows, plain);
    default:
      return sparse_.put(slot, row, rows, plain);
  }
}

void Bank::put_biases(int32_t slot, int64_t row, int64_t rows, const float *values) {
  const PackedSlot &output = outputs_[static_cast<size_t>(slot)];
  for (int64_t i = 0; i < rows; ++i) {
    const auto [panel, at] = panel_row(gated_, output.rows, row + i);
    bias_[static_cast<size_t>(output.row + panel * panel_rows + at)] = values[i];
  }
}

void Bank::check_whole() const {
  int64_t missing = 0, all = 0;
  for (const Part &part : parts_) {
    for (const std::vector<bool> &rows : part.rows_put) {
      all += static_cast<int64_t>(rows.size());
      missing += std::count(rows.begin(), rows.end(), false);
    }
  }
  expect(missing == 0, "rows", "all " + std::to_string(all) + " rows of the bank", all - missing);
  for (size_t s = 0; s < kept_index_.size(); ++s)
    check_kept_rows(kept_index_[s].data(), static_cast<int64_t>(kept_index_[s].size()), outputs_[s].rows);
}

Memory Bank::send_kept_of() const {
  const size_t stride = static_cast<size_t>(panels_) * panel_rows;
  std::vector<int32_t> kept_of(stride * static_cast<size_t>(slots_), -1);
  for (size_t s = 0; s < kept_index_.size(); ++s) {
    for (size_t i = 0; i < kept_index_[s].size(); ++i) {
      const auto [panel, at] = panel_row(gated_, outputs_[s].rows, kept_index_[s][i]);
      kept_of[s * stride + static_cast<size_t>(panel * panel_rows + at)] = static_cast<int32_t>(i);
    }
  }
  return send(device_, kept_of);
}

size_t Bank::finish() {
  expect(!finished_, "weight", "one that is not finished", 1);
  check_whole();
  device_->use();
  size_t held = base_.finish(device_) + factor_in_.finish(device_) + factor_out_.finish(device_) +
                kept_rows_.finish(device_) + sparse_.finish(device_);
  const size_t slots = outputs_.size();
  for (size_t s = 0; s < slots; ++s) {
    PackedSlot packed = outputs_[s];
    packed.rows = packed.panels * panel_rows;
    outputs_.push_back(packed);
  }
  outputs_memory_ = send(device_, outputs_);
  if (!bias_.empty()) bias_memory_ = send(device_, bias_);
  if (kept_rows_.present()) kept_of_memory_ = send_kept_of();
  held += outputs_memory_.bytes() + bias_memory_.bytes() + kept_of_memory_.bytes();
  bias_ = {};
  kept_index_ = {};
  parts_ = {};
  finished_ = true;
  return held;
}

}  // namespace moe::cuda
