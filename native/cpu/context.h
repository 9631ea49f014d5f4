// What a kernel sees of a node at one run, and the table of kernels that each instruction set fills.
//
// How an operation is written: the algorithm once, in native/cpu/operations/<operation>.inl inside `namespace
// moe::cpu::MOE_ISA`, on the vocabulary of native/cpu/simd/{avx512,avx2,neon,plain}.h (the same names in each).
// native/cpu/kernels_<isa>.cc defines MOE_ISA, includes the vocabulary and operations/kernels.inl, and is compiled with
// that set's flags. Such a unit must not instantiate inline functions or templates that other units share (std::
// algorithms, containers, moe/half.h): the linker keeps one copy of them, and it might be the one with the wider
// instructions. Lambdas, and functions of the MOE_ISA namespace, are safe.
#pragma once
#include <cstddef>
#include <cstdint>

#include "moe/backend.h"
#include "moe/operations.h"
#include "pool.h"

namespace moe::cpu {

// One operand with the sizes of this run. rows = dim[0]; width = product of the rest (1 for rank 1).
struct Operand {
  void *data = nullptr;  // not set while scratch sizes are asked for
  int64_t rows = 0, width = 0;
  int64_t dim[MOE_MAX_RANK] = {};
  int32_t dtype = -1;  // -1: the operand is absent
  int32_t rank = 0;

  [[gnu::always_inline]] explicit operator bool() const { return dtype >= 0; }
  [[gnu::always_inline]] int64_t size() const { return rows * width; }
  // The pointer is only an address here; the caller knows the dtype.
  template <typename T>
  [[gnu::always_inline]] T *as() const {
    return static_cast<T *>(data);
  }
};

// Float operands arrive as f32, whatever the graph stores: the backend converts before and after the kernel. Three
// exceptions keep their stored dtype, since converting all of them at each run would cost more than the kernel: the
// table of embed, the two caches of attention, and x and y of take.
struct Context {
  Pool *pool = nullptr;
  int threads = 1;
  const int32_t *cancel = nullptr;   // may be null
  const void *attributes = nullptr;  // the struct of operations.h
  std::byte *scratch = nullptr;      // 64-byte aligned, the bytes that Kernels::scratch returned
  Operand input[MOE_MAX_INPUTS];
  Operand output[MOE_MAX_OUTPUTS];

  template <typename Attributes>
  [[gnu::always_inline]] const Attributes &attribute() const {
    return *static_cast<const Attributes *>(attributes);
  }
  [[gnu::always_inline]] bool cancelled() const { return cancel && __atomic_load_n(cancel, __ATOMIC_RELAXED) != 0; }

  // body(task, thread), thread < threads. `work`: operations in all; small work stays on the caller and wakes nobody.
  template <typename Body>
  void parallel_for(int64_t tasks, int64_t work, const Body &body) const {
    if (tasks <= 1 || threads <= 1 || work < 60'000) {
      for (int64_t task = 0; task < tasks; ++task) body(task, 0);
      return;
    }
    pool->parallel_for(tasks, threads, body);
  }
};

// One table per instruction set: `extern const Kernels kernels;` in moe::cpu::avx512, ::plain, … A kernel must
// give every row bitwise the same result for any number of rows and threads.
using Kernel = void (*)(const Context &);
struct Kernels {
  Kernel embed, norm, rotate, attention, map, route, combine, convolve, take, score, accumulate;
};

// Bytes of scratch of a node, and what is not supported (throws MOE_UNSUPPORTED). The operands carry the largest
// sizes, no data.
// Compiled once, for every machine: native/cpu/operations/scratch.cc (all operations but linear).
int64_t operation_scratch(int32_t op, const Context &largest);

namespace plain {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace neon {
extern const Kernels kernels;
}
namespace neon_i8mm {
extern const Kernels kernels;
}

}  // namespace moe::cpu
