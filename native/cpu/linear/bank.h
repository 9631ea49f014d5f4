// A packed bank: the matrices of all slots of a linear, in the order in which the kernels stream them (tile.h draws it).
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
  // Throws INVALID_ARGUMENT where the rules of moe/weight_spec.h are broken, and for a width from 2^31 on.
  Bank(std::shared_ptr<Device> device, const moe_weight_spec &spec);
  void put(int32_t part, int32_t slot, int64_t row, int64_t rows, const moe_plain &plain);
  // Throws where rows are missing, or where kept rows are not ascending.
  size_t finish();

  const Slot &slot(int64_t index) const { return slots_[static_cast<size_t>(index)]; }
  int64_t slots() const { return static_cast<int64_t>(slots_.size()); }
  // Slots in the order in which they run: those of one shared base are neighbours.
  int64_t in_order(int64_t index) const { return order_[static_cast<size_t>(index)]; }
  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  bool gated() const { return gated_; }
  // Whether any part is of integers.
  bool integer() const;
  // The form of a part; null: the bank has none.
  const moe_part *form(int32_t kind) const;
  // The most tiles of A and kept rows of a slot.
  int64_t early_tiles() const;

 private:
  // One matrix or bias of one slot, and where it lies.
  struct Piece {
    Matrix matrix;
    Sparse sparse;  // of a sparse part; `matrix` is then its values
    int64_t in = 0, rows = 0, missing = 0;
    int64_t gated_columns = 0;
    std::byte *tiles = nullptr, *places = nullptr;
    int32_t *index = nullptr;
  };
  struct Part {
    moe_part form;
    std::vector<Piece> pieces;
  };
  Piece piece_of(const moe_part &form, int64_t in, int64_t out) const;
  void place_pieces();
  void link_slots(const moe_weight_spec &spec);
  void put_rows(const Part &part, const Piece &piece, int64_t row, int64_t rows, const moe_plain &plain);

  std::shared_ptr<Device> device_;
  int64_t in_, out_;
  bool gated_;
  std::vector<Part> parts_;
  std::vector<Slot> slots_;
  std::vector<int32_t> order_;
  std::vector<int32_t> blocks_;  // Sparse::blocks and ::spread, of the widest slot
  Memory memory_;
};

}  // namespace moe::cpu
