// The two halves of a symmetric eigenproblem around the tridiagonal matrix between them.
#pragma once
#include <cstdint>
#include <vector>

namespace moe::numerics {

// A = Q·T·Qᵀ with Q = H_0·H_1 … H_{n−1}, H_k = I − scale_k·v_k·v_kᵀ.
struct Tridiagonal {
  std::vector<double> diagonal, beside;  // [n]; beside[k] = T[k + 1, k], the last one 0
  std::vector<double> reflectors;        // [n, n], row k is v_k, zero up to its index k
  std::vector<double> scales;            // [n]
};

// a [n, n], both triangles, symmetric; destroyed.
Tridiagonal tridiagonalize(double *a, int64_t n);

// Rows of x [rows, n], eigenvectors of T, become those of A: x = x·Qᵀ.
void apply_reflectors(const Tridiagonal &from, int64_t n, double *x, int64_t rows);

// Eigenvalues of T into `diagonal`, in no order; the same rotations on the rows of z [n, n], which as the identity
// becomes the eigenvectors, one a row. `beside` is destroyed.
void diagonalize(double *diagonal, double *beside, int64_t n, double *z);

}  // namespace moe::numerics
