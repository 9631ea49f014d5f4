// Loops that measure what a machine can do at most, one set per instruction set.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace moe::cpu {

// How a thread goes through its share of memory: as `streams` runs side by side, each fetched `ahead` bytes before it is
// read (0: left to the hardware).
struct ReadPattern {
  int streams, ahead;
};

// `rounds` steps of independent chains in registers; returns the operations done, two a product.
using OperationProbe = double (*)(int64_t rounds);
constexpr int chain_counts = 3;  // 8, 10 and 12 chains; more than 12 would spill where there are 16 registers

struct Probes {
  // Reads every byte of `streams` runs of `bytes / streams` once, each a multiple of 512; the result only keeps the
  // reads alive.
  int32_t (*read)(const std::byte *from, int64_t bytes, ReadPattern pattern);
  std::array<OperationProbe, chain_counts> multiply;  // multiply-adds in f32
  std::array<OperationProbe, chain_counts> dot;       // dot products of bytes
  std::array<OperationProbe, chain_counts> pairs;     // the same of bf16; null: the set has none
};

namespace plain {
extern const Probes probes;
}
namespace avx2 {
extern const Probes probes;
}
namespace avx2vnni {
extern const Probes probes;
}
namespace avx512 {
extern const Probes probes;
}
namespace neon {
extern const Probes probes;
}
namespace neon_i8mm {
extern const Probes probes;
}

}  // namespace moe::cpu
