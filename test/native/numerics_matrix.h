// Matrices for the tests of native/numerics, and Eigen's view of them.
#pragma once
#include <Eigen/Dense>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

inline RowMajor random_matrix(int64_t rows, int64_t columns, unsigned seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  return RowMajor::NullaryExpr(rows, columns, [&] { return normal(random); });
}

// Σ over `samples` random rows x of x·xᵀ.
inline RowMajor random_gram(int64_t n, int64_t samples, unsigned seed) {
  const RowMajor x = random_matrix(samples, n, seed);
  return x.transpose() * x;
}

inline double largest(const RowMajor &matrix) { return matrix.size() ? matrix.cwiseAbs().maxCoeff() : 0; }
