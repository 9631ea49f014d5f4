// Bytes moved and operations done by a node at given sizes: the roof that a profile is held against. Counts are of the
// plain algorithm (each operand read once, each output written once), in saturating arithmetic: a profile never fails.
#include <algorithm>
#include <limits>

#include "core/operations.h"
#include "moe/dtype.h"

namespace moe::cost {
namespace {

// Never negative, capped at 2^63 − 1.
int64_t multiply(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<int64_t>::max() : product;
}
int64_t add(int64_t a, int64_t b) {
  int64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<int64_t>::max() : sum;
}

const moe_type *input(const CostContext &in, size_t slot) { return in.input[slot] ? &in.input[slot]->type : nullptr; }

int64_t size_of(const CostContext &in, const moe_dim &dim) {
  return dim.symbol < 0 ? dim.factor : multiply(dim.factor, in.sizes[static_cast<size_t>(dim.symbol)]);
}
int64_t rows_of(const CostContext &in, const moe_type &type) { return size_of(in, type.dim[0]); }
int64_t elements(const CostContext &in, const moe_type *type) {
  if (!type) return 0;
  int64_t count = 1;
  for (int32_t i = 0; i < type->rank; ++i) count = multiply(count, size_of(in, type->dim[i]));
  return count;
}
int64_t bytes_of(const CostContext &in, const moe_type *type) {
  return type ? multiply(elements(in, type), dtypes[static_cast<size_t>(type->dtype)].bits / 8) : 0;
}
int64_t output_bytes(const CostContext &in) {
  int64_t bytes = 0;
  for (const moe_type *type : in.output) bytes = add(bytes, bytes_of(in, type));
  return bytes;
}
// Every operand but those in `skip`.
int64_t input_bytes(const CostContext &in, std::initializer_list<size_t> skip = {}) {
  int64_t bytes = 0;
  for (size_t slot = 0; slot < in.input.size(); ++slot)
    if (in.input[slot] && !in.input[slot]->weight && std::find(skip.begin(), skip.end(), slot) == skip.end())
      bytes = add(bytes, bytes_of(in, &in.input[slot]->type));
  return bytes;
}

}  // namespace

Cost elementwise(const CostContext &in) {
  int64_t widest = 0;
  for (size_t slot = 0; slot < in.input.size(); ++slot) widest = std::max(widest, elements(in, input(in, slot)));
  return {add(input_bytes(in), output_bytes(in)), multiply(4, widest)};
}

// Only the rows that are looked up are read.
Cost embed(const CostContext &in) {
  const moe_type &table = *input(in, 1);
  const int64_t rows = rows_of(in, *input(in, 0));
  const int64_t row_bytes = multiply(size_of(in, table.dim[1]), dtypes[static_cast<size_t>(table.dtype)].bits / 8);
  return {add(add(multiply(rows, row_bytes), bytes_of(in, input(in, 0))), output_bytes(in)),
          multiply(rows, size_of(in, table.dim[1]))};
}

// A grouped linear touches at most one slot a row.
Cost linear(const CostContext &in) {
  const WeightInfo &weight = *in.input[1]->weight;
  const int64_t rows = rows_of(in, in.input[2] ? *input(in, 2) : *input(in, 0));
  const int64_t touched = std::min<int64_t>(weight.slots, rows);
  const double packed = static_cast<double>(weight.packed_bytes) * static_cast<double>(touched) / weight.slots;
  return {add(add(static_cast<int64_t>(packed), input_bytes(in)), output_bytes(in)),
          multiply(multiply(2, rows), weight.products)};
}

// Each token against a full page table of its sequence: P · page_size keys, the most that lengths may say. The caches
// are read once a sequence, up to what they hold.
Cost attention(const CostContext &in) {
  const moe_type &query = *input(in, 0), &cache = *input(in, 7);
  const int64_t key_places = multiply(rows_of(in, *input(in, 6)), size_of(in, cache.dim[1]));
  const int64_t sequences = std::max<int64_t>(1, rows_of(in, *input(in, 5)));
  const int64_t key_bytes = multiply(size_of(in, cache.dim[2]), dtypes[static_cast<size_t>(cache.dtype)].bits / 8);
  const int64_t both_caches = multiply(2, std::min(multiply(key_places, key_bytes), bytes_of(in, &cache)));
  return {add(add(input_bytes(in, {7, 8}), both_caches), output_bytes(in)),
          multiply(multiply(4, elements(in, &query)), key_places / sequences)};
}

Cost combine(const CostContext &in) {
  return {add(input_bytes(in), output_bytes(in)), multiply(2, elements(in, input(in, 0)))};
}

Cost convolve(const CostContext &in) {
  const int64_t width = size_of(in, input(in, 1)->dim[1]);
  return {add(add(input_bytes(in), output_bytes(in)), bytes_of(in, input(in, 5))),
          multiply(multiply(2, width), elements(in, input(in, 0)))};
}

Cost take(const CostContext &in) { return {add(multiply(2, output_bytes(in)), bytes_of(in, input(in, 1))), 0}; }

Cost accumulate(const CostContext &in) {
  const int64_t statistic = static_cast<const moe_accumulate *>(in.attributes)->statistic;
  const moe_type *a = input(in, 0), *b = input(in, 1);
  int64_t operations = multiply(2, elements(in, a));
  if (statistic == MOE_GRAM) operations = multiply(operations, size_of(in, (b ? b : a)->dim[1]));
  return {add(input_bytes(in), bytes_of(in, input(in, 4))), operations};
}

}  // namespace moe::cost
