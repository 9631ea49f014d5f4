// The launches of a linear: as many as the parts of its bank need.
//
//   rows      x as each part reads it (rows.h), once for all that read it alike
//   shrink    t = x·Aᵀ and k = x·(kept rows)ᵀ, f32 in scratch
//   sum       y = activation(Base·x + B·t + S·x + kept + bias) + residual, one launch: of the base, else of S, else of
//             B. What is beside a base or S is summed in the same registers. Only an S beside a base that it cannot join
//             (n:m but 2:4, of f32, or reading x in another form) is a launch of its own, whose sums are handed on in f32.
#pragma once
#include <variant>
#include <vector>

#include "host/node.h"
#include "linear/arguments.h"
#include "linear/prepare_rows.h"
#include "linear/sparse.h"

namespace moe::cuda {

class Bank;
class PackedStack;

// Operands of a linear, in their order (operations.h).
enum LinearInput { x_input, weight_input, token_of_input, offsets_input, residual_input };

// Up to 16 rows a slot, in the mean of the largest run: then the decode kernels read each weight about once.
bool few_rows(const LinearArguments &arguments);
// Launches the kernel that suits a product best.
void launch_product(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher);

class LinearParts {
 public:
  // Scratch lies from node.scratch on; nothing is launched yet.
  explicit LinearParts(const Node &node);

  int64_t scratch_bytes() const { return bytes_; }
  void launch(Launcher &launcher) const;

 private:
  struct Preparation {
    Operand x;
    Rows rows;
  };
  struct Product {
    LinearArguments arguments;
    LinearPlan plan;
  };
  struct SparseProduct {
    SparseArguments arguments;
    LinearPlan plan;
  };
  struct JointProduct {
    LinearArguments arguments;
    SparsePart sparse;
    LinearPlan plan;
  };

  LinearArguments arguments_of_node() const;
  // Whether row r of y reads row token_of[r] of x.
  int32_t gathered() const { return node_.input[token_of_input] ? 1 : 0; }
  Operand take_floats(int64_t columns, int32_t dtype = MOE_F32);
  Rows rows_of(const Operand &x, const PackedView &weight);
  Operand shrink(const PackedStack &stack);
  LinearArguments epilogue();
  int64_t epilogue_bytes(const LinearArguments &arguments) const;
  SparsePart sparse_part();
  Operand sparse_sum(const SparsePart &sparse);
  void add_sum();

  const Node &node_;
  const Bank &bank_;
  int64_t bytes_ = 0;
  std::vector<Preparation> prepared_;  // to be found again
  std::vector<std::variant<Preparation, Product, SparseProduct, JointProduct>> steps_;
};

}  // namespace moe::cuda
