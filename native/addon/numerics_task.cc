#include "addon/numerics_task.h"

#include "addon/numerics_call.h"
#include "addon/weight.h"
#include "moe/part.h"
#include "numerics/assignment.h"
#include "numerics/cholesky.h"
#include "numerics/eigen.h"
#include "numerics/gptq.h"
#include "numerics/neurons.h"
#include "numerics/permutation.h"
#include "numerics/product.h"
#include "numerics/sparse_gpt.h"
#include "numerics/svd.h"

namespace moe::addon {

napi_value assign(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const int64_t n = call.side(1, "n");
  const auto *cost = call.source<double>(0, "cost", checked_multiply(n, n, "n"));
  auto *columns = call.result<int32_t>(2, "columns", n);
  return call.run([=] { numerics::assign_maximum(cost, n, columns); });
}

napi_value add_product(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const int64_t rows = call.side(2, "rows"), columns = call.side(3, "columns");
  const int64_t size = checked_multiply(rows, columns, "rows");
  const auto *a = call.source<float>(0, "a", size), *b = call.source<float>(1, "b", size);
  auto *cost = call.result<double>(4, "cost", checked_multiply(rows, rows, "rows"), true);
  return call.run([=] { numerics::add_product(a, b, rows, columns, cost); });
}

napi_value product(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const bool transposed = call.flag(2, "transposed");
  const int64_t rows = call.side(3, "rows"), columns = call.side(4, "columns"), depth = call.side(5, "depth");
  const numerics::Operand a = call.matrix(0, "a", rows, depth);
  const numerics::Operand b = call.matrix(1, "b", transposed ? columns : depth, transposed ? depth : columns);
  const int64_t size = checked_multiply(rows, columns, "rows");
  if (call.is_single(6, "to")) {
    auto *to = call.result<float>(6, "to", size);
    return call.run([=] { numerics::product(a, b, transposed, rows, columns, depth, to); });
  }
  auto *to = call.result<double>(6, "to", size);
  return call.run([=] { numerics::product(a, b, transposed, rows, columns, depth, to); });
}

napi_value cholesky(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const int64_t n = call.side(1, "n"), size = checked_multiply(n, n, "n");
  const double ridge = call.real(2, "ridge");
  const auto *a = call.source<double>(0, "a", size);
  auto *to = call.result<double>(3, "to", size);
  return call.run([=] { numerics::cholesky(a, n, ridge, to); });
}

napi_value symmetric_inverse(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const int64_t n = call.side(1, "n"), size = checked_multiply(n, n, "n");
  const double ridge = call.real(2, "ridge");
  const auto *a = call.source<double>(0, "a", size);
  auto *to = call.result<double>(3, "to", size);
  return call.run([=] { numerics::symmetric_inverse(a, n, ridge, to); });
}

napi_value ridge_solve(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const int64_t n = call.side(3, "n"), rows = call.side(4, "rows"), size = checked_multiply(rows, n, "rows");
  const double ridge = call.real(5, "ridge");
  const auto *a = call.source<double>(0, "a", checked_multiply(n, n, "n"));
  const auto *b = call.source<double>(1, "b", size), *x0 = call.source<double>(2, "x0", size);
  auto *x = call.result<double>(6, "x", size);
  return call.run([=] { numerics::ridge_solve(a, b, x0, n, rows, ridge, x); });
}

napi_value triangular_product(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const int64_t rows = call.side(2, "rows"), n = call.side(3, "n"), size = checked_multiply(rows, n, "rows");
  const auto *m = call.source<double>(0, "m", size), *l = call.source<double>(1, "l", checked_multiply(n, n, "n"));
  auto *to = call.result<double>(4, "to", size);
  return call.run([=] { numerics::triangular_product(m, l, rows, n, to); });
}

napi_value triangular_solve(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const bool transposed = call.flag(1, "transposed");
  const int64_t n = call.side(2, "n"), rows = call.side(3, "rows");
  const auto *l = call.source<double>(0, "l", checked_multiply(n, n, "n"));
  auto *x = call.result<double>(4, "x", checked_multiply(rows, n, "rows"), true);
  return call.run([=] { numerics::triangular_solve(l, transposed, n, rows, x); });
}

napi_value symmetric_eigen(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const int64_t n = call.side(1, "n"), count = call.side(2, "count");
  const auto *a = call.source<double>(0, "a", checked_multiply(n, n, "n"));
  auto *values = call.result<double>(3, "values", n);
  auto *vectors = call.result<double>(4, "vectors", checked_multiply(count, n, "count"));
  return call.run([=] { numerics::symmetric_eigen(a, n, values, vectors, count); });
}

napi_value truncated_svd(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const int64_t rows = call.side(1, "rows"), columns = call.side(2, "columns"), rank = call.side(3, "rank");
  const numerics::Operand m = call.matrix(0, "m", rows, columns);
  const auto *whiten = call.optional_source<double>(4, "whiten", checked_multiply(columns, columns, "columns"));
  const numerics::SvdTarget to{
      call.result<double>(5, "u", checked_multiply(rows, rank, "rank")), call.result<double>(6, "s", rank),
      call.result<double>(7, "vt", checked_multiply(rank, columns, "rank")), call.result<double>(8, "captured", 1)};
  return call.run([=] { numerics::truncated_svd(m, rows, columns, rank, whiten, to); });
}

napi_value neuron_curve(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const int64_t hidden = call.side(2, "hidden"), width = call.side(3, "width");
  const double ridge = call.real(4, "ridge");
  const numerics::Operand down = call.matrix(0, "down", hidden, width);
  const auto *h = call.source<double>(1, "h", checked_multiply(width, width, "width"));
  auto *order = call.result<int32_t>(5, "order", width);
  auto *curve = call.result<double>(6, "curve", width);
  return call.run([=] { numerics::neuron_curve(down, h, hidden, width, ridge, order, curve); });
}

napi_value refit_neurons(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const int64_t hidden = call.side(2, "hidden"), width = call.side(3, "width"), count = call.side(6, "count");
  const double ridge = call.real(4, "ridge");
  const numerics::Operand down = call.matrix(0, "down", hidden, width);
  const auto *h = call.source<double>(1, "h", checked_multiply(width, width, "width"));
  const auto *kept = call.source<int32_t>(5, "kept", count);
  auto *to = call.result<double>(7, "to", checked_multiply(hidden, count, "count"));
  return call.run([=] { numerics::refit_neurons(down, h, hidden, width, ridge, kept, count, to); });
}

napi_value gptq(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const int64_t rows = call.side(2, "rows"), columns = call.side(3, "columns");
  const moe_part form = read_form(info[4], "form");
  if ((form.store != MOE_I4 && form.store != MOE_I8) || form.outer >= 0)
    refuse("form", "int4 or int8 without dual-grained scales", info[4]);
  if (form.offset >= 0 && form.offset != form.scale) refuse("form", "offsets of the scales' dtype", info[4]);
  numerics::GptqOptions options;
  options.nibbles = form.store == MOE_I4;
  options.form.bits = static_cast<int>(integer(info[5], "bits", 2, options.nibbles ? 4 : 8));
  options.form.offset = form.offset >= 0;
  options.form.half = form.scale == MOE_F16;
  options.group = form.group;
  options.damping = call.real(6, "damping");
  options.by_size = call.flag(7, "bySize");
  options.form.rounding = call.flag(8, "published") ? numerics::Rounding::published : numerics::Rounding::own;
  const RowBytes bytes = row_bytes(form, columns);
  const auto part = [&](size_t index, const char *argument, int64_t row) -> uint8_t * {
    return row == 0 ? nullptr : call.result<uint8_t>(index, argument, checked_multiply(rows, row, "rows"));
  };
  const int64_t count = checked_multiply(rows, columns, "rows");
  const auto *w = call.source<float>(0, "weight", count);
  const auto *hessian = call.source<double>(1, "hessian", checked_multiply(columns, columns, "columns"));
  const numerics::GptqTarget to{part(9, "values", bytes.values), part(10, "scale", bytes.scale),
                                part(11, "offset", bytes.offset), call.result<float>(12, "dequantized", count)};
  return call.run([=] { numerics::gptq(w, hessian, rows, columns, options, to); });
}

napi_value sparse_gpt(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const int64_t rows = call.side(2, "rows"), columns = call.side(3, "columns"),
                count = checked_multiply(rows, columns, "rows");
  numerics::SparseGptOptions options;
  options.n = call.side(4, "n");
  options.m = call.side(5, "m");
  options.damping = call.real(6, "damping");
  const auto *w = call.source<float>(0, "weight", count);
  const auto *hessian = call.source<double>(1, "hessian", checked_multiply(columns, columns, "columns"));
  auto *mask = call.result<uint8_t>(7, "mask", count);
  auto *to = call.result<float>(8, "to", count);
  return call.run([=] { numerics::sparse_gpt(w, hessian, rows, columns, options, mask, to); });
}

napi_value search_permutation(const Napi::CallbackInfo &info) {
  NumericsCall call(info);
  const int64_t rows = call.side(1, "rows"), columns = call.side(2, "columns"), n = call.side(3, "n"),
                m = call.side(4, "m"), attempts = call.side(5, "attempts");
  const auto *w = call.source<float>(0, "weight", checked_multiply(rows, columns, "rows"));
  const numerics::PermutationTarget to{call.result<int32_t>(6, "permutation", columns),
                                       call.result<double>(7, "kept", 2)};
  return call.run([=] { numerics::search_permutation(w, rows, columns, n, m, attempts, to); });
}

}  // namespace moe::addon
