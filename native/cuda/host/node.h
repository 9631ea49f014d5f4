// A node of a compiled graph, as the launch functions of the operations see it.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernel/frame.h"
#include "moe/backend.h"
#include "moe/checked.h"
#include "moe/error.h"
#include "moe/operations.h"

namespace moe::cuda {

class Device;
class Bank;
class Launcher;

// Dense, row-major. Sizes are those of the largest run; kernels ask the frame for those of this one.
struct Operand {
  int32_t dtype = -1, rank = 0;
  std::array<int64_t, MOE_MAX_RANK> dim{};
  Place place;
  const Bank *bank = nullptr;  // a weight's

  explicit operator bool() const { return rank > 0; }
  int64_t rows() const { return dim[0]; }
  int64_t width() const {
    int64_t width = 1;
    for (size_t i = 1; i < static_cast<size_t>(rank); ++i) width *= dim[i];
    return width;
  }
  int64_t elements() const { return rows() * width(); }
};

struct Node {
  int32_t op = 0;
  std::array<Operand, MOE_MAX_INPUTS> input{};
  std::array<Operand, MOE_MAX_OUTPUTS> output{};
  std::vector<std::byte> attributes;
  Place scratch;  // absent where the operation asked for none, and while it is asked

  // What fusion.h decided; other nodes of the same program.
  bool absorbed = false;          // another node computes this one: it launches nothing
  const Node *product = nullptr;  // of a route: the absorbed linear whose result is the logits
  const Node *rows_for =
      nullptr;  // of a linear: y is stored as this linear, and whoever else reads it, prepares its rows
  const Node *rows_from = nullptr;  // of a linear: x is such rows already, stored by this linear

  template <typename Attributes>
  const Attributes &as() const {
    return *reinterpret_cast<const Attributes *>(attributes.data());
  }
};

struct Operation {
  std::string_view name;
  size_t attribute_bytes;
  // Bytes at the largest sizes; throws MOE_UNSUPPORTED where the device cannot run the node. Null: none.
  int64_t (*scratch)(const Device &device, const Node &node);
  // Launches kernels whose grids fit the largest sizes; a smaller run's surplus blocks find nothing to do.
  void (*launch)(const Node &node, Launcher &launcher);
};
const Operation &operation(int32_t op);

#define MOE_CUDA_OPERATION(name)                                  \
  int64_t scratch_##name(const Device &device, const Node &node); \
  void launch_##name(const Node &node, Launcher &launcher)
MOE_CUDA_OPERATION(embed);
MOE_CUDA_OPERATION(norm);
MOE_CUDA_OPERATION(linear);
MOE_CUDA_OPERATION(rotate);
MOE_CUDA_OPERATION(attention);
MOE_CUDA_OPERATION(map);
MOE_CUDA_OPERATION(route);
MOE_CUDA_OPERATION(combine);
MOE_CUDA_OPERATION(convolve);
MOE_CUDA_OPERATION(take);
MOE_CUDA_OPERATION(score);
MOE_CUDA_OPERATION(accumulate);
#undef MOE_CUDA_OPERATION

}  // namespace moe::cuda
