// The inner loops in f64, once an instruction set; kernels.cc chooses at run time. A sum's order depends on the set, so
// results of two machines may differ in the last bits; those of one machine do not.
#pragma once
#include <cstdint>

namespace moe::numerics {

struct Kernels {
  // Rows and columns of the tile that multiply_tile keeps in registers.
  int64_t tile_rows, tile_columns;
  // to[i, j] += sign · Σ_k a[k, i]·b[k, j]; a [depth, tile_rows] and b [depth, tile_columns] packed, `to` of row
  // distance `stride`.
  void (*multiply_tile)(const double *a, const double *b, int64_t depth, double sign, double *to, int64_t stride);
  double (*dot)(const double *x, const double *y, int64_t count);
  // Σ max(x[i], y[i])
  double (*sum_maxima)(const double *x, const double *y, int64_t count);
  // y += factor·x
  void (*add_scaled)(double factor, const double *x, double *y, int64_t count);
  // Rotations of neighbouring rows of z, from the last pair up: for i = last − 1 … first, with c, s at i − first
  //   (z[i], z[i + 1]) = (c·z[i] − s·z[i + 1], s·z[i] + c·z[i + 1])
  void (*rotate_rows)(const double *cosine, const double *sine, int64_t first, int64_t last, double *z, int64_t stride,
                      int64_t columns);
};

inline constexpr int64_t most_tile_elements = 256;  // of any set, for a tile at an edge

// By NODE_MOE_ISA where it names a set that this machine has, else the widest.
const Kernels &kernels();

namespace plain {
extern const Kernels kernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#elif defined(__aarch64__)
namespace neon {
extern const Kernels kernels;
}
#endif

}  // namespace moe::numerics
