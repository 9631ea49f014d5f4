#include "linear/sparse_stack.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "host/check.h"
#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/part.h"

namespace moe::cuda {
namespace {

int64_t panels_of(bool gated, int64_t rows) {
  return gated ? ceil_divide(rows / 2, panel_rows / 2) : ceil_divide(rows, panel_rows);
}

constexpr int64_t words_of_unit = 2;

void copy_element(int32_t store, const std::byte *from, int64_t index, std::byte *to, int64_t place) {
  if (store == MOE_I4) {
    const std::byte code = from[index / 2] >> (index % 2 * 4) & std::byte{0xf};
    to[place / 2] |= code << (place % 2 * 4);
    return;
  }
  const int64_t bytes = dtype_bytes(store, 1);
  std::memcpy(to + place * bytes, from + index * bytes, static_cast<size_t>(bytes));
}

}  // namespace

int64_t SparseStack::panel_metadata(const PackedSlot &slot) const {
  return metadata_of(form_.store, chunks_of(form_.store, slot.steps));
}

SparseStack::SparseStack(const moe_part &form, bool gated, const std::vector<Shape> &shapes)
    : form_(form), gated_(gated), shapes_(shapes) {
  form_.ragged = nullptr;
  for (const Shape &shape : shapes) view_.columns = std::max(view_.columns, static_cast<int32_t>(shape.columns));
  view_.store = form.store;
  view_.scale = form.scale;
  view_.group = form.group;
  view_.n = form.n;
  view_.m = form.m;
  if (half()) {
    std::vector<Shape> kept;
    for (const Shape &shape : shapes) kept.push_back({shape.rows, part_columns(form, 0, shape.columns)});
    halves_ = PackedStack({form.store, form.scale, -1, static_cast<int32_t>(group_values(form)), false, gated}, kept);
    int64_t words = 0;
    for (const PackedSlot &slot : halves_.slots()) words += slot.panels * panel_metadata(slot);
    // Blocks that no row of the matrix has still name two different places.
    words_.assign(static_cast<size_t>(words), 0x44444444u);
    return;
  }
  int64_t bytes = 0, units = 0, scales = 0;
  for (const Shape &shape : shapes) {
    SparseSlot slot;
    const int64_t columns = part_columns(form, 0, shape.columns);
    slot.panels = static_cast<int32_t>(panels_of(gated, shape.rows));
    slot.units = static_cast<int32_t>(ceil_divide(shape.columns, mask_columns * words_of_unit));
    slot.groups = static_cast<int32_t>(group_count(form, columns));
    slot.unit = units;
    slot.scale = scales;
    const int64_t rows = int64_t{slot.panels} * panel_rows;
    first_value_.push_back(bytes);
    bytes = checked_add(bytes, checked_multiply(rows, dtype_bytes(form.store, columns), "weight"), "weight");
    units = checked_add(units, checked_multiply(slot.panels, slot.units, "weight"), "weight");
    scales = checked_add(scales, checked_multiply(rows, slot.groups, "weight"), "weight");
    slots_.push_back(slot);
  }
  values_.resize(static_cast<size_t>(bytes));
  words_.resize(static_cast<size_t>(checked_multiply(units, words_of_unit * panel_rows, "weight")));
  if (form.scale >= 0) scales_.resize(static_cast<size_t>(dtype_bytes(form.scale, scales)));
}

void SparseStack::put(int32_t slot_index, int64_t row, int64_t rows, const moe_plain &plain) {
  const auto slot = static_cast<size_t>(slot_index);
  if (half()) halves_.put(slot_index, row, rows, plain);
  const RowBytes each = row_bytes(form_, part_columns(form_, 0, shapes_[slot].columns));
  for (int64_t i = 0; i < rows; ++i) {
    const auto *const places = static_cast<const uint8_t *>(plain.index) + i * each.index;
    if (half()) {
      put_half_metadata(slot, row + i, places);
      continue;
    }
    put_values(slot, row + i, static_cast<const std::byte *>(plain.values) + i * each.values, places);
    if (!scales_.empty()) put_scales(slot, row + i, static_cast<const std::byte *>(plain.scale) + i * each.scale);
  }
}

void SparseStack::put_half_metadata(size_t slot_index, int64_t row, const uint8_t *places) {
  const PackedSlot &slot = halves_.slots()[slot_index];
  const auto [panel, at] = panel_row(gated_, slot.rows, row);
  uint32_t *const words = words_.data() + metadata_of(form_.store, slot.chunk) + panel * panel_metadata(slot);
  for (int64_t block = 0; 2 * block < slot.columns; ++block) {
    const int64_t lane = 4 * (at % 8) + block % 16 / 4;
    const auto shift = static_cast<unsigned>(at / 8 * 16 + block % 4 * 4);
    uint32_t &word = words[block / 16 * warp_lanes + lane];
    word = (word & ~(0xfu << shift)) | half_metadata(places[2 * block], places[2 * block + 1]) << shift;
  }
}

void SparseStack::put_values(size_t slot_index, int64_t row, const std::byte *values, const uint8_t *places) {
  const SparseSlot &slot = slots_[slot_index];
  const Shape &shape = shapes_[slot_index];
  const int64_t columns = part_columns(form_, 0, shape.columns), row_bytes = dtype_bytes(form_.store, columns);
  const auto [panel, at] = panel_row(gated_, shape.rows, row);
  std::memcpy(values_.data() + first_value_[slot_index] + (panel * panel_rows + at) * row_bytes, values,
              static_cast<size_t>(row_bytes));
  for (int64_t j = 0; j < columns; ++j) {
    const int64_t column = j / form_.n * form_.m + places[j];
    if (column >= shape.columns) continue;  // only at the end of the last block: no kept value lies behind it
    const int64_t word = (slot.unit + panel * slot.units) * words_of_unit + column / mask_columns;
    words_[static_cast<size_t>(word * panel_rows + at)] |= 1u << (column % mask_columns);
  }
}

// From rows of values to units of them (sparse.h).
std::vector<std::byte> SparseStack::values_by_unit() {
  const auto unit_words = [&](int64_t unit) { return words_.data() + unit * words_of_unit * panel_rows; };
  const auto kept = [&](int64_t unit, int64_t row) {
    return std::popcount(unit_words(unit)[row]) + std::popcount(unit_words(unit)[panel_rows + row]);
  };
  const int64_t units = static_cast<int64_t>(words_.size()) / (words_of_unit * panel_rows);
  int64_t most = 0;
  for (int64_t unit = 0; unit < units; ++unit) {
    int64_t values = 0;
    for (int64_t row = 0; row < panel_rows; ++row) values += kept(unit, row);
    most = std::max(most, values);
  }
  view_.value_bytes = static_cast<int32_t>(align_up(dtype_bytes(form_.store, most), 16));
  std::vector<std::byte> made(static_cast<size_t>(checked_multiply(units, view_.value_bytes, "weight")));
  for (size_t s = 0; s < slots_.size(); ++s) {
    const SparseSlot &slot = slots_[s];
    const int64_t row_bytes = dtype_bytes(form_.store, part_columns(form_, 0, shapes_[s].columns));
    for (int64_t panel = 0; panel < slot.panels; ++panel) {
      std::array<int64_t, panel_rows> taken{};  // of each row
      for (int64_t unit = slot.unit + panel * slot.units, end = unit + slot.units; unit < end; ++unit) {
        std::byte *const to = made.data() + unit * view_.value_bytes;
        int64_t index = 0;
        for (int64_t row = 0; row < panel_rows; ++row) {
          const std::byte *const from = values_.data() + first_value_[s] + (panel * panel_rows + row) * row_bytes;
          int64_t &next = taken[static_cast<size_t>(row)];
          for (int count = kept(unit, row); count > 0; --count) copy_element(form_.store, from, next++, to, index++);
        }
      }
    }
  }
  return made;
}

void SparseStack::put_scales(size_t slot_index, int64_t row, const std::byte *scales) {
  const SparseSlot &slot = slots_[slot_index];
  const auto [panel, at] = panel_row(gated_, shapes_[slot_index].rows, row);
  const auto bytes = static_cast<size_t>(dtype_bytes(form_.scale, 1));
  for (int64_t group = 0; group < slot.groups; ++group) {
    const int64_t index = slot.scale + (panel * slot.groups + group) * panel_rows + at;
    std::memcpy(scales_.data() + static_cast<size_t>(index) * bytes, scales + static_cast<size_t>(group) * bytes,
                bytes);
  }
}

size_t SparseStack::finish(const std::shared_ptr<Device> &device) {
  size_t held = halves_.finish(device);
  const auto send = [&](const auto &from) -> const std::byte * {
    if (from.empty()) return nullptr;
    Memory memory(device, from.size() * sizeof from[0]);
    MOE_CUDA(cudaMemcpy(memory.data(), from.data(), memory.bytes(), cudaMemcpyHostToDevice));
    held += memory.bytes();
    memory_.push_back(std::move(memory));
    return memory_.back().data();
  };
  const auto *const words = reinterpret_cast<const uint32_t *>(send(words_));
  view_.halves = halves_.view();
  view_.metadata = half() ? words : nullptr;
  view_.masks = half() ? nullptr : words;
  view_.values = half() ? nullptr : send(values_by_unit());
  view_.slots = reinterpret_cast<const SparseSlot *>(send(slots_));
  view_.scales = half() ? view_.halves.scales : send(scales_);
  values_ = {};
  scales_ = {};
  words_ = {};
  return held;
}

int64_t SparseStack::slot_bytes(size_t index) const {
  if (half()) {
    const PackedSlot &slot = halves_.slots()[index];
    return halves_.slot_bytes(index) + 4 * slot.panels * panel_metadata(slot);
  }
  const SparseSlot &slot = slots_[index];
  const int64_t rows = int64_t{slot.panels} * panel_rows;
  return int64_t{slot.panels} * slot.units * (view_.value_bytes + 4 * words_of_unit * panel_rows) +
         (form_.scale < 0 ? 0 : dtype_bytes(form_.scale, rows * slot.groups));
}

int64_t SparseStack::slot_values(size_t index) const {
  return shapes_[index].rows * part_columns(form_, 0, shapes_[index].columns);
}

}  // namespace moe::cuda
