// Which form of its activations a linear reads, and the kernel that makes it.
#pragma once
#include "host/node.h"
#include "linear/packed.h"
#include "linear/rows.h"

namespace moe::cuda {

struct PreparedRows {
  Rows rows;
  bool needed = false;  // else `rows` is x itself
  int64_t bytes = 0;    // of scratch, a multiple of 256
};

// The rows of x as products with `weight` read them; what has to be made of x lies in the arena from `offset` on.
PreparedRows plan_rows(const Operand &x, const PackedView &weight, bool int8, int64_t offset);
// What making `rows` of x moves, at the largest sizes.
int64_t preparation_bytes(const Operand &x, const Rows &rows);
void prepare_rows(const Operand &x, const Rows &rows, Launcher &launcher);

}  // namespace moe::cuda
