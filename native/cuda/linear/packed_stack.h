// One part of a bank as dense matrices: built on the host row by row in the order of packed.h, then sent to the device.
#pragma once
#include <memory>
#include <vector>

#include "host/device.h"
#include "linear/packed.h"
#include "moe/backend.h"

namespace moe::cuda {

class PackedStack {
 public:
  struct Form {
    int32_t store, scale, outer, group;  // moe_part
    bool offset, gated;
  };
  struct Shape {
    int64_t rows, columns;
  };

  PackedStack() = default;
  // slot_of: the matrix of each slot, where slots share matrices.
  PackedStack(const Form &form, const std::vector<Shape> &shapes, std::vector<int32_t> slot_of = {});

  // Rows of the plain form (docs/weights.md).
  void put(int32_t slot, int64_t row, int64_t rows, const moe_plain &plain);
  // Bytes held on the device.
  size_t finish(const std::shared_ptr<Device> &device);
  // After `finish`.
  const PackedView &view() const { return view_; }
  bool present() const { return !slots_.empty(); }
  const Form &form() const { return form_; }
  const std::vector<PackedSlot> &slots() const { return slots_; }
  size_t slot_count() const { return slots_.size(); }
  // Of one matrix, packed: what a kernel that reads all of it moves. And the values that it keeps.
  int64_t slot_bytes(size_t slot) const;
  int64_t slot_values(size_t slot) const { return int64_t{slots_[slot].rows} * slots_[slot].columns; }

 private:
  void put_values(const PackedSlot &slot, int64_t row, const std::byte *values);

  Form form_{};
  std::vector<PackedSlot> slots_;
  std::vector<int32_t> slot_of_;
  std::vector<std::byte> chunks_, scales_, offsets_, outer_;
  PackedView view_;
  std::vector<Memory> memory_;
};

}  // namespace moe::cuda
