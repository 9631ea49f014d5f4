// A packed bank: the matrices of all slots of a linear, in the order in which the kernels stream them (tile.h draws
// it).
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "device.h"
#include "linear/tile.h"
#include "moe/backend.h"

namespace moe::cpu {

class Bank {
 public:
  Bank(std::shared_ptr<Device> device, const moe_weight_spec &spec);
  void put(int32_t part, int32_t slot, int64_t row, int64_t rows, const moe_plain &plain);
  // Throws where rows are missing.
  size_t finish();

  const Slot &slot(int64_t index) const { return slots_[static_cast<size_t>(index)]; }
  int64_t slots() const { return static_cast<int64_t>(slots_.size()); }
  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  bool gated() const { return gated_; }
  bool integer() const { return base_.store == MOE_I8 || base_.store == MOE_I4; }
  int64_t group() const { return base_.group; }

 private:
  // Where a row lies: its tile and its place in it.
  struct Place {
    int64_t tile;
    int lane;
  };
  Place place(const Slot &slot, int64_t row) const;
  void put_float(std::byte *tiles, const Slot &slot, int64_t row, const std::byte *values) const;
  void put_integer(std::byte *tiles, const Slot &slot, int64_t row, const std::byte *values, const std::byte *scale,
                   const std::byte *offset) const;

  std::shared_ptr<Device> device_;
  int64_t in_, out_;
  bool gated_;
  moe_part base_{};
  int32_t base_part_ = -1, bias_part_ = -1;
  std::vector<Slot> slots_;
  std::vector<int64_t> missing_;  // rows still to come: [parts · slots]
  Memory memory_;
};

}  // namespace moe::cpu
