// Packing: from rows of the plain form to the order that packed.h draws.
#include "linear/packed_stack.h"

#include <cstring>

#include "host/check.h"
#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/error.h"
#include "moe/half.h"

namespace moe::cuda {
namespace {

constexpr int64_t chunk_bytes = warp_lanes * 16;

int bits_of(int32_t store) { return dtypes[static_cast<size_t>(store)].bits; }

// Where element (row of the panel, column of the step) lies: the lane, and which of its eight elements.
struct Element {
  int lane, index;
};
Element element_at(int row, int column) {
  const int g = row % 8, pair = column % 8 / 2;
  return {4 * g + pair, column % 2 + 2 * (row / 8) + 4 * (column / 8)};
}

// Place of element `index` of a lane among the bytes of an i8 step: words {e0 e4 e1 e5}, {e2 e6 e3 e7}.
int byte_of(int index) { return 4 * (index / 2 % 2) + 2 * (index % 2) + index / 4; }

}  // namespace

PackedStack::PackedStack(const Form &form, const std::vector<Shape> &shapes, std::vector<int32_t> slot_of)
    : form_(form), slot_of_(std::move(slot_of)) {
  int64_t chunks = 0, scales = 0, rows = 0;
  for (const Shape &shape : shapes) {
    PackedSlot slot;
    const int64_t outputs = form.gated ? shape.rows / 2 : shape.rows;
    const int64_t panels = ceil_divide(outputs, form.gated ? panel_rows / 2 : panel_rows);
    const int64_t steps = align_up(shape.columns, column_padding) / step_columns;
    if (shape.rows > INT32_MAX || shape.columns > INT32_MAX)
      throw Error(MOE_INVALID_ARGUMENT, "weight", "at most 2^31 − 1 rows and columns",
                  std::to_string(shape.rows) + " × " + std::to_string(shape.columns));
    slot.rows = static_cast<int32_t>(shape.rows);
    slot.columns = static_cast<int32_t>(shape.columns);
    slot.panels = static_cast<int32_t>(panels);
    slot.steps = static_cast<int32_t>(steps);
    slot.groups = static_cast<int32_t>(form.group > 0 ? ceil_divide(shape.columns, form.group) : 1);
    slot.chunk = chunks;
    slot.scale = scales;
    slot.row = rows;
    chunks = checked_add(chunks, checked_multiply(panels, chunks_of(form.store, steps), "weight"), "weight");
    scales = checked_add(scales, checked_multiply(panels * panel_rows, slot.groups, "weight"), "weight");
    rows += panels * panel_rows;
    view_.panels = std::max(view_.panels, slot.panels);
    view_.steps = std::max(view_.steps, slot.steps);
    slots_.push_back(slot);
  }
  chunks_.resize(static_cast<size_t>(checked_multiply(chunks, chunk_bytes, "weight")));
  const auto scale_bytes = [&](int32_t dtype) { return static_cast<size_t>(dtype_bytes(dtype, scales)); };
  if (form.scale >= 0) scales_.resize(scale_bytes(form.scale));
  if (form.offset) offsets_.resize(scale_bytes(form.scale));
  if (form.outer >= 0) outer_.resize(static_cast<size_t>(rows) * sizeof(float));
  view_.store = form.store;
  view_.scale = form.scale;
  view_.group = form.group;
  view_.gated = form.gated ? 1 : 0;
}

void PackedStack::put_values(const PackedSlot &slot, int64_t row, const std::byte *values) {
  const auto [panel, at] = panel_row(form_.gated, slot.rows, row);
  std::byte *const chunks = chunks_.data() + (slot.chunk + panel * chunks_of(form_.store, slot.steps)) * chunk_bytes;
  const int bits = bits_of(form_.store);
  for (int64_t column = 0; column < slot.columns; ++column) {
    const int64_t step = column / step_columns;
    const auto [lane, index] = element_at(at, static_cast<int>(column % step_columns));
    if (bits == 4) {
      const auto byte = std::to_integer<unsigned>(values[column / 2]);
      const unsigned code = column % 2 == 0 ? byte & 0xfu : byte >> 4;
      const int nibble = index / 2 + 4 * (index % 2);
      std::byte &to = chunks[step / 4 * chunk_bytes + lane * 16 + step % 4 * 4 + nibble / 2];
      to |= static_cast<std::byte>(code << (nibble % 2 * 4));
    } else if (bits == 8) {
      chunks[step / 2 * chunk_bytes + lane * 16 + step % 2 * 8 + byte_of(index)] = values[column];
    } else if (bits == 16) {
      std::memcpy(chunks + step * chunk_bytes + lane * 16 + index * 2, values + column * 2, 2);
    } else {
      const int64_t chunk = 2 * step + index / 4;
      std::memcpy(chunks + chunk * chunk_bytes + lane * 16 + index % 4 * 4, values + column * 4, 4);
    }
  }
}

void PackedStack::put(int32_t slot_index, int64_t row, int64_t rows, const moe_plain &plain) {
  const PackedSlot &slot = slots_[static_cast<size_t>(slot_index)];
  const int64_t row_bytes = dtype_bytes(form_.store, slot.columns);
  const size_t scale_bytes = form_.scale >= 0 ? static_cast<size_t>(dtype_bytes(form_.scale, 1)) : 0;
  for (int64_t i = 0; i < rows; ++i) {
    put_values(slot, row + i, static_cast<const std::byte *>(plain.values) + i * row_bytes);
    const auto [panel, at] = panel_row(form_.gated, slot.rows, row + i);
    const auto scatter = [&](std::vector<std::byte> &to, const void *from) {
      for (int64_t group = 0; group < slot.groups; ++group) {
        const int64_t index = slot.scale + (panel * slot.groups + group) * panel_rows + at;
        std::memcpy(to.data() + static_cast<size_t>(index) * scale_bytes,
                    static_cast<const std::byte *>(from) + static_cast<size_t>(i * slot.groups + group) * scale_bytes,
                    scale_bytes);
      }
    };
    if (!scales_.empty()) scatter(scales_, plain.scale);
    if (!offsets_.empty()) scatter(offsets_, plain.offset);
    if (!outer_.empty()) {
      const float outer = form_.outer == MOE_F16 ? f16_to_f32(static_cast<const uint16_t *>(plain.outer)[i])
                                                 : static_cast<const float *>(plain.outer)[i];
      std::memcpy(outer_.data() + static_cast<size_t>(slot.row + panel * panel_rows + at) * sizeof outer, &outer,
                  sizeof outer);
    }
  }
}

size_t PackedStack::finish(const std::shared_ptr<Device> &device) {
  size_t held = 0;
  const auto send = [&](const void *from, size_t bytes) -> const std::byte * {
    if (bytes == 0) return nullptr;
    Memory memory(device, bytes);
    MOE_CUDA(cudaMemcpy(memory.data(), from, bytes, cudaMemcpyHostToDevice));
    held += bytes;
    memory_.push_back(std::move(memory));
    return memory_.back().data();
  };
  const auto send_and_free = [&](std::vector<std::byte> &bytes) {
    const std::byte *const sent = send(bytes.data(), bytes.size());
    bytes = {};
    return sent;
  };
  view_.chunks = reinterpret_cast<const uint4 *>(send_and_free(chunks_));
  view_.scales = send_and_free(scales_);
  view_.offsets = send_and_free(offsets_);
  view_.outer = reinterpret_cast<const float *>(send_and_free(outer_));
  view_.slots = reinterpret_cast<const PackedSlot *>(send(slots_.data(), slots_.size() * sizeof(PackedSlot)));
  view_.slot_of = reinterpret_cast<const int32_t *>(send(slot_of_.data(), slot_of_.size() * sizeof(int32_t)));
  return held;
}

int64_t PackedStack::slot_bytes(size_t index) const {
  const PackedSlot &slot = slots_[index];
  const int64_t scales = int64_t{slot.panels} * panel_rows * slot.groups;
  int64_t bytes = slot.panels * chunks_of(form_.store, slot.steps) * chunk_bytes;
  if (form_.scale >= 0) bytes += dtype_bytes(form_.scale, scales) * (form_.offset ? 2 : 1);
  if (form_.outer >= 0) bytes += int64_t{slot.panels} * panel_rows * 4;
  return bytes;
}

}  // namespace moe::cuda
