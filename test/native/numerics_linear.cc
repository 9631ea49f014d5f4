// Products, triangles, eigenvectors and singular vectors against Eigen.
#include <limits>

#include "core_check.h"
#include "numerics/cholesky.h"
#include "numerics/eigen.h"
#include "numerics/orthonormal.h"
#include "numerics/parallel.h"
#include "numerics/product.h"
#include "numerics/svd.h"
#include "numerics_matrix.h"

using namespace moe::numerics;

namespace {

struct Svd {
  RowMajor u, vt;
  Eigen::VectorXd s;
  double captured = 0;
  RowMajor matrix() const { return u * s.asDiagonal() * vt; }
};

Svd svd_of(const RowMajor &m, int64_t rank, const RowMajor *whiten = nullptr) {
  Svd made{RowMajor(m.rows(), rank), RowMajor(rank, m.cols()), Eigen::VectorXd(rank)};
  truncated_svd(Operand::of(m.data(), m.cols()), m.rows(), m.cols(), rank, whiten ? whiten->data() : nullptr,
                {made.u.data(), made.s.data(), made.vt.data(), &made.captured});
  return made;
}

// A matrix of these singular values.
RowMajor with_spectrum(int64_t rows, int64_t columns, const Eigen::VectorXd &s, unsigned seed) {
  RowMajor left = random_matrix(s.size(), rows, seed), right = random_matrix(s.size(), columns, seed + 1);
  orthonormalize(left.data(), s.size(), rows);
  orthonormalize(right.data(), s.size(), columns);
  return left.transpose() * s.asDiagonal() * right;
}

void check_best(const RowMajor &m, int64_t rank, double tolerance) {
  CAPTURE(m.rows());
  CAPTURE(m.cols());
  CAPTURE(rank);
  const Eigen::VectorXd exact = Eigen::BDCSVD<Eigen::MatrixXd>(m).singularValues();
  const Svd found = svd_of(m, rank);
  const double total = exact.squaredNorm(), share = total > 0 ? exact.head(rank).squaredNorm() / total : 1;
  CHECK(found.captured == doctest::Approx(share).epsilon(tolerance));
  const double left = (m - found.matrix()).squaredNorm(), least = exact.tail(exact.size() - rank).squaredNorm();
  CHECK(left <= least + tolerance * total);
  for (int64_t i = 1; i < rank; ++i) CHECK(found.s(i) <= found.s(i - 1));
  for (int64_t i = 0; i < rank; ++i) {
    const double length = found.u.col(i).norm();
    CHECK((found.s(i) > 0 ? std::abs(length - 1) < 1e-12 : length == 0));
  }
}

}  // namespace

TEST_CASE("product: both precisions and both layouts of b, at sizes around the tiles, match Eigen") {
  for (const int64_t rows : {1, 7, 8, 9, 70})
    for (const int64_t columns : {1, 23, 24, 25, 500})
      for (const int64_t depth : {1, 2, 255, 256, 257}) {
        const RowMajor a = random_matrix(rows, depth, 1), b = random_matrix(depth, columns, 2), b_rows = b.transpose();
        const Eigen::MatrixXf a_single = a.cast<float>();
        const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> a_floats = a_single;
        const RowMajor expected = a * b, expected_floats = a_single.cast<double>() * b;
        RowMajor to(rows, columns);
        product(Operand::of(a.data(), depth), Operand::of(b.data(), columns), false, rows, columns, depth, to.data());
        CHECK(largest(to - expected) < 1e-12);
        product(Operand::of(a.data(), depth), Operand::of(b_rows.data(), depth), true, rows, columns, depth, to.data());
        CHECK(largest(to - expected) < 1e-12);
        std::vector<float> single(static_cast<size_t>(rows * columns));
        product(Operand::of(a_floats.data(), depth), Operand::of(b.data(), columns), false, rows, columns, depth,
                single.data());
        double worst = 0;
        for (int64_t i = 0; i < rows * columns; ++i)
          worst = std::max(worst,
                           std::abs(static_cast<double>(single[static_cast<size_t>(i)]) - expected_floats.data()[i]));
        CHECK(worst <= 1e-7 * (1 + largest(expected_floats)));
      }
  const double bad[2] = {1, std::numeric_limits<double>::quiet_NaN()}, one[2] = {1, 1};
  double to = 0;
  CHECK(error_of([&] { product(Operand::of(one, 2), Operand::of(bad, 1), false, 1, 1, 2, &to); }) ==
        "INVALID_ARGUMENT b: expected finite values, got nan at [1]");
}

TEST_CASE("results are the same bits for any number of threads") {
  const RowMajor m = random_matrix(300, 700, 3), gram = random_gram(400, 500, 4);
  const auto all = [&](int threads) {
    thread_limit = threads;
    RowMajor square(300, 300), inverse(400, 400), values(1, 400), vectors(400, 400);
    product(Operand::of(m.data(), 700), Operand::of(m.data(), 700), true, 300, 300, 700, square.data());
    symmetric_inverse(gram.data(), 400, 0.1, inverse.data());
    symmetric_eigen(gram.data(), 400, values.data(), vectors.data(), 400);
    const Svd found = svd_of(m, 20);
    thread_limit = 0;
    return std::vector<RowMajor>{square, inverse, values, vectors, found.u, found.vt};
  };
  const auto one = all(1);
  for (const int threads : {2, 3, 7}) CHECK(all(threads) == one);
}

TEST_CASE("cholesky, inverse and triangular products and solves match Eigen, across recursion edges") {
  for (const int64_t n : {1, 2, 47, 48, 49, 95, 97, 144, 300}) {
    CAPTURE(n);
    const RowMajor a = random_gram(n, n + 5, 5), damped = a + 0.5 * RowMajor::Identity(n, n);
    RowMajor l(n, n), inverse(n, n);
    cholesky(a.data(), n, 0.5, l.data());
    CHECK(largest(l - RowMajor(damped.llt().matrixL())) < 1e-11);
    symmetric_inverse(a.data(), n, 0.5, inverse.data());
    CHECK(largest(inverse * damped - RowMajor::Identity(n, n)) < 1e-10);
    CHECK(largest(inverse - inverse.transpose()) == 0);
    const RowMajor x = random_matrix(70, n, 6);
    RowMajor to(70, n), solved = x;
    triangular_product(x.data(), l.data(), 70, n, to.data());
    CHECK(largest(to - x * l) < 1e-11);
    triangular_solve(l.data(), false, n, 70, solved.data());
    CHECK(largest(solved * l - x) < 1e-10);
    solved = x;
    triangular_solve(l.data(), true, n, 70, solved.data());
    CHECK(largest(solved * l.transpose() - x) < 1e-10);
  }
  const double singular[4] = {1, 2, 2, 4}, zero[1] = {0};
  double to[4], x = 1;
  CHECK(
      error_of([&] { cholesky(singular, 2, 0, to); }) ==
      "INVALID_ARGUMENT a: expected a positive definite a + ridge·I; a larger ridge makes it so, got pivot 0.000000 in "
      "row 1");
  CHECK(error_of([&] { cholesky(singular, 2, -1, to); }).starts_with("INVALID_ARGUMENT ridge"));
  CHECK(error_of([&] { triangular_solve(zero, false, 1, 1, &x); }).starts_with("INVALID_ARGUMENT l"));
}

TEST_CASE("symmetric_eigen: values, residual and orthogonality for plain, clustered and rank-deficient spectra") {
  for (const int64_t n : {1, 2, 3, 31, 33, 64, 130, 400})
    for (int kind = 0; kind < 4; ++kind) {
      CAPTURE(n);
      CAPTURE(kind);
      RowMajor a = random_gram(n, kind == 2 ? n / 3 + 1 : n, 7);
      if (kind == 1) {  // two clusters, in a random basis
        Eigen::VectorXd values = Eigen::VectorXd::Constant(n, 3);
        values.head(n / 2).setConstant(3 + 1e-9);
        RowMajor basis = random_matrix(n, n, 8);
        orthonormalize(basis.data(), n, n);
        a = basis.transpose() * values.asDiagonal() * basis;
      }
      if (kind == 3) a *= 1e-160;                               // squares of its entries vanish
      const RowMajor lower = a.triangularView<Eigen::Lower>();  // what lies above is not read
      RowMajor values(1, n), vectors(n, n);
      symmetric_eigen(lower.data(), n, values.data(), vectors.data(), n);
      const Eigen::VectorXd expected = Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(a).eigenvalues().reverse();
      const double scale = largest(a);
      CHECK(largest(values - expected.transpose()) < 1e-13 * static_cast<double>(n) * scale);
      CHECK(largest(vectors * vectors.transpose() - RowMajor::Identity(n, n)) < 1e-12);
      CHECK(largest(vectors.transpose() * values.row(0).asDiagonal() * vectors - a) <
            1e-13 * static_cast<double>(n) * scale);
      RowMajor some(n / 2, n), again(1, n);
      symmetric_eigen(lower.data(), n, again.data(), some.data(), n / 2);
      CHECK(some == vectors.topRows(n / 2));
    }
}

TEST_CASE("truncated_svd is the best of its rank: exact sizes, full rank, rank-deficient, zeros") {
  for (const auto &[rows, columns] : {std::pair{1, 1}, {1, 9}, {9, 1}, {20, 30}, {30, 20}, {64, 64}})
    for (int64_t rank = 1; rank <= std::min(rows, columns); rank += 7)
      check_best(random_matrix(rows, columns, 9), rank, 1e-12);
  check_best(random_matrix(20, 20, 10), 20, 1e-12);
  check_best(RowMajor::Zero(12, 17), 3, 1e-15);
  for (const auto &[rows, columns] : {std::pair{40, 60}, {60, 40}}) {
    const RowMajor deficient = random_matrix(rows, 5, 11) * random_matrix(5, columns, 12);
    check_best(deficient, 4, 1e-12);
    check_best(deficient, 9, 1e-12);
    CHECK(svd_of(deficient, 9).s.tail(4).isZero(0));
  }
  double nothing[4];
  const RowMajor two = RowMajor::Ones(2, 2);
  CHECK(error_of([&] {
          truncated_svd(Operand::of(two.data(), 2), 2, 2, 3, nullptr, {nothing, nothing, nothing, nothing});
        }) == "INVALID_ARGUMENT rank: expected 1 … 2, got 3");
}

TEST_CASE("truncated_svd by subspace iteration: flat, clustered, falling and deficient spectra, and tiny gaps") {
  const int64_t n = 240, rank = 20;
  Eigen::VectorXd s(n);
  const auto check_both = [&](unsigned seed) {
    check_best(with_spectrum(n, 300, s, seed), rank, 2e-7);
    check_best(with_spectrum(300, n, s, seed), rank, 2e-7);
  };
  check_best(random_matrix(n, 300, 13), rank, 2e-7);
  for (int64_t i = 0; i < n; ++i) s(i) = 1 / (1 + static_cast<double>(i));
  check_both(14);
  for (int64_t i = 0; i < n; ++i) s(i) = i < rank ? 1 + 1e-6 : 1;  // no gap to speak of
  check_both(15);
  for (int64_t i = 0; i < n; ++i) s(i) = i < 10 ? 100 : i < 30 ? 1 : 1e-3;  // the cut goes through a cluster
  check_both(16);
  for (int64_t i = 0; i < n; ++i) s(i) = i < 25 ? std::pow(10.0, -static_cast<double>(i) / 2) : 0;
  check_both(17);
}

TEST_CASE("truncated_svd whitened minimizes the error under L, for a singular statistic too") {
  for (const auto &[rows, columns] : {std::pair{30, 50}, {50, 30}, {230, 260}}) {
    CAPTURE(rows);
    const int64_t rank = 12;
    const RowMajor m = random_matrix(rows, columns, 18), h = random_gram(columns, columns / 2, 19);
    RowMajor l(columns, columns);
    cholesky(h.data(), columns, 1e-3, l.data());
    const Svd found = svd_of(m, rank, &l);
    const Eigen::VectorXd exact = Eigen::BDCSVD<Eigen::MatrixXd>(m * l).singularValues();
    CHECK((found.s - exact.head(rank)).cwiseAbs().maxCoeff() < 1e-3 * exact(0));
    const double least = exact.tail(exact.size() - rank).squaredNorm();
    CHECK(((m - found.matrix()) * l).squaredNorm() <= least + 2e-7 * exact.squaredNorm());
    // Directions that no input takes.
    l.rightCols(columns / 2).setZero();
    const Svd again = svd_of(m, rank, &l);
    const Eigen::VectorXd partly = Eigen::BDCSVD<Eigen::MatrixXd>(m * l).singularValues();
    CHECK(((m - again.matrix()) * l).squaredNorm() <=
          partly.tail(partly.size() - rank).squaredNorm() + 2e-7 * partly.squaredNorm());
  }
}
