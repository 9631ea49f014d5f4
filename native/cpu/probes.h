// Loops that measure what a machine can do at most, one set per instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

namespace moe::cpu {

struct Probes {
  // Reads every byte once (a multiple of 512); the result only keeps the reads alive.
  int32_t (*read)(const std::byte *from, int64_t bytes);
  // Independent multiply-adds, and dot products of bytes, in registers; both return how many operations they did (two
  // a product).
  double (*multiply)(int64_t rounds);
  double (*dot)(int64_t rounds);
};

namespace plain {
extern const Probes probes;
}
namespace avx2 {
extern const Probes probes;
}
namespace avx512 {
extern const Probes probes;
}

}  // namespace moe::cpu
