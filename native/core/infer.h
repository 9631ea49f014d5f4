// Checks shared by the rules that give output types. Slots are positions in Operation::inputs.
#pragma once
#include <initializer_list>
#include <string>

#include "core/operations.h"
#include "core/types.h"

namespace moe::infer {

// A dimension that an operand must have; `name` alone (factor 0) matches any size and is what messages call it.
struct Want {
  Want(const moe_dim &dim) : dim(dim) {}
  Want(int64_t size) : dim(fixed_dim(size)) {}
  Want(const char *name) : dim{0, -1}, name(name) {}
  moe_dim dim;
  const char *name = nullptr;
};

inline bool has(const Inference &in, int slot) { return in.input[static_cast<size_t>(slot)] != nullptr; }
inline const moe_type &type_of(const Inference &in, int slot) { return in.input[static_cast<size_t>(slot)]->type; }
inline const moe_dim &dim_of(const Inference &in, int slot, int dim) { return type_of(in, slot).dim[dim]; }
template <typename Attributes>
Attributes &attributes_of(Inference &in) {
  return *static_cast<Attributes *>(in.attributes);
}

// "linear.x"
std::string operand_name(const Inference &in, int slot);
std::string attribute_name(const Inference &in, const char *name);
// INVALID_ARGUMENT at an operand or attribute.
[[noreturn]] void refuse_operand(const Inference &in, int slot, const std::string &expected,
                                 const std::string &received);
[[noreturn]] void refuse_attribute(const Inference &in, const char *name, const std::string &expected,
                                   int64_t received);

// An absent optional operand passes each of these.
void want_shape(const Inference &in, int slot, std::initializer_list<Want> dims);
void want_dtype(const Inference &in, int slot, int32_t dtype);
void want_float(const Inference &in, int slot);
void want_constant(const Inference &in, int slot);
void want_state(const Inference &in, int slot);
// Where `needed` is false the operand must be absent, where it is true present; `when` completes the message.
void want_presence(const Inference &in, int slot, bool needed, const char *when);

void set_output(Inference &in, int slot, const moe_type &type);

}  // namespace moe::infer
