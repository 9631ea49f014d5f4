// Included by each native/cpu/kernels_<isa>.cc after its vocabulary: every kernel of this folder, and the table of
// them.
#include "operations/common.inl"
#include "operations/layout.h"
//
#include "operations/accumulate.inl"
#include "operations/attention_cache.inl"
//
#include "operations/attention_tile.inl"
//
#include "operations/attention.inl"
#include "operations/combine.inl"
#include "operations/convolve.inl"
#include "operations/embed.inl"
#include "operations/map.inl"
#include "operations/norm.inl"
#include "operations/rotate.inl"
#include "operations/score.inl"

namespace moe::cpu::MOE_ISA {

extern const Kernels kernels = {embed,   norm,     rotate,    attention, map,       cpu::route,
                                combine, convolve, cpu::take, score,     accumulate};

}  // namespace moe::cpu::MOE_ISA
