// A sparse part of a bank: built on the host row by row in the order of sparse.h, then sent to the device.
#pragma once
#include <memory>
#include <vector>

#include "linear/packed_stack.h"
#include "linear/sparse.h"

namespace moe::cuda {

class SparseStack {
 public:
  using Shape = PackedStack::Shape;

  SparseStack() = default;
  // shapes: rows and inputs of each slot.
  SparseStack(const moe_part &form, bool gated, const std::vector<Shape> &shapes);

  // Rows of the plain form that check_plain has seen.
  void put(int32_t slot, int64_t row, int64_t rows, const moe_plain &plain);
  // Bytes held on the device.
  size_t finish(const std::shared_ptr<Device> &device);
  // After `finish`.
  const SparseView &view() const { return view_; }
  bool present() const { return !shapes_.empty(); }
  size_t slot_count() const { return shapes_.size(); }
  // Of one matrix, packed, and values that it keeps.
  int64_t slot_bytes(size_t slot) const;
  int64_t slot_values(size_t slot) const;

 private:
  bool half() const { return form_.n == 2 && form_.m == 4; }
  int64_t panel_metadata(const PackedSlot &slot) const;
  void put_half_metadata(size_t slot, int64_t row, const uint8_t *places);
  void put_values(size_t slot, int64_t row, const std::byte *values, const uint8_t *places);
  std::vector<std::byte> values_by_unit();
  void put_scales(size_t slot, int64_t row, const std::byte *scales);

  moe_part form_{};
  bool gated_ = false;
  std::vector<Shape> shapes_;
  PackedStack halves_;                      // 2:4
  std::vector<SparseSlot> slots_;           // n:m
  std::vector<int64_t> first_value_;        // of each slot, in values_: bytes
  std::vector<std::byte> values_, scales_;  // n:m: values by rows of panels
  std::vector<uint32_t> words_;             // metadata or masks
  std::vector<Memory> memory_;
  SparseView view_;
};

}  // namespace moe::cuda
