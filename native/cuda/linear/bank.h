// A bank on the device: each part a stack of packed matrices, built on the host row by row and sent when it is whole.
#pragma once
#include <array>
#include <memory>
#include <vector>

#include "host/device.h"
#include "linear/packed_stack.h"
#include "linear/sparse_stack.h"
#include "moe/backend.h"

namespace moe::cuda {

class Bank {
 public:
  // Throws MOE_INVALID_ARGUMENT where weight_spec.h does.
  Bank(std::shared_ptr<Device> device, const moe_weight_spec &spec);

  // Throws MOE_INVALID_ARGUMENT for a part, slot or row that the bank does not have, and as check_plain does.
  void put(int32_t part, int32_t slot, int64_t row, int64_t rows, const moe_plain &plain);
  // Bytes held on the device.
  size_t finish();

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  int32_t slots() const { return slots_; }
  bool gated() const { return gated_; }
  bool finished() const { return finished_; }
  // Whether any part is of codes.
  bool integer() const { return integer_; }

  // Parts that are not there are not `present`.
  const PackedStack &base() const { return base_; }
  const PackedStack &factor_in() const { return factor_in_; }    // [rank, in] a slot
  const PackedStack &factor_out() const { return factor_out_; }  // [out, rank] a slot, gated as the base
  const PackedStack &kept_rows() const { return kept_rows_; }    // [count, in] a slot
  const SparseStack &sparse() const { return sparse_; }
  // f32 in packed order of the outputs, or null.
  const float *bias() const { return reinterpret_cast<const float *>(bias_memory_.data()); }

  // On the device, [slots]: each slot's own widths, and where its biases begin (PackedSlot::row).
  const PackedSlot *outputs() const { return reinterpret_cast<const PackedSlot *>(outputs_memory_.data()); }
  // As outputs(), where the packed order is what is written: each slot's rows are 16 · its panels.
  const PackedSlot *packed_outputs() const { return outputs() + slots_; }
  // Panels of `out` outputs.
  int32_t panels() const { return panels_; }
  // On the device, [slots, 16 · panels]: which kept row adds to the output at a place of the packed order; −1: none.
  const int32_t *kept_of() const { return reinterpret_cast<const int32_t *>(kept_of_memory_.data()); }

 private:
  struct Part {
    moe_part form;
    std::vector<PackedStack::Shape> shapes;
    std::vector<std::vector<bool>> rows_put;
  };

  void make_part(const moe_part &form, const moe_weight_spec &spec);
  void put_biases(int32_t slot, int64_t row, int64_t rows, const float *values);
  void check_whole() const;
  Memory send_kept_of() const;

  std::shared_ptr<Device> device_;
  int64_t in_, out_;
  int32_t slots_, panels_ = 0;
  bool gated_, integer_ = false, finished_ = false;
  std::vector<int64_t> in_of_;
  std::vector<Part> parts_;
  std::vector<PackedSlot> outputs_;
  PackedStack base_, factor_in_, factor_out_, kept_rows_;
  SparseStack sparse_;
  std::vector<float> bias_;
  std::vector<std::vector<int32_t>> kept_index_;  // of each slot: the output row of each kept row
  Memory bias_memory_, outputs_memory_, kept_of_memory_;
};

}  // namespace moe::cuda
