// The choice of an instruction set: one list in order of preference, each with the features it needs, and a way to
// force one.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "context.h"
#include "linear/kernels.h"
#include "probes.h"

namespace moe::cpu {

namespace avx2vnni {
extern const Probes probes;
}
namespace avx512bf16 {
extern const Probes probes;
}
namespace amx {
extern const Probes probes;
}

struct InstructionSet {
  std::string_view name;
  uint32_t needed;  // feature bits, dispatch.cc
  const Kernels *kernels;
  const linear::Kernels *linear;
  const Probes *probes;
  uint32_t wanted = 0;  // features without which it is slower than the next, and taken only by name
};

// By name; "auto" and "" mean NODE_MOE_ISA where it is set, else the first that suits this machine. Throws
// MOE_INVALID_ARGUMENT.
const InstructionSet &choose_instruction_set(std::string_view name);
// Names of those that this machine has, in order of preference, with `separator` between them.
std::string available_instruction_sets(std::string_view separator);
std::string processor_name();

}  // namespace moe::cpu
