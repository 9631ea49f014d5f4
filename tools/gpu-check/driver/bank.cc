#include "bank.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace moe::gpu_check {
namespace {

class Builder {
 public:
  Builder(const BankShape &shape, Random &random) : shape_(shape), random_(random) {}

  std::shared_ptr<const BankData> build() {
    test::PlainBank &plain = data_->plain;
    moe_weight_spec &spec = plain.spec;
    spec.in = shape_.in;
    spec.out = shape_.out;
    spec.slots = shape_.slots;
    spec.gated = shape_.gated ? 1 : 0;
    if (!shape_.in_of.empty()) spec.in_of = data_->widths.emplace_back(shape_.in_of).data();
    if (!shape_.out_of.empty()) spec.out_of = data_->widths.emplace_back(shape_.out_of).data();
    if (!shape_.base_of.empty()) {
      spec.base_of = data_->sizes.emplace_back(shape_.base_of).data();
      spec.base_slots = 1 + *std::max_element(shape_.base_of.begin(), shape_.base_of.end());
    }
    plain.parts = shape_.parts;
    for (int32_t p = 0; p < static_cast<int32_t>(plain.parts.size()); ++p) {
      const bool shared = plain.parts[static_cast<size_t>(p)].kind == MOE_PART_BASE && spec.base_slots > 0;
      for (int32_t s = 0; s < (shared ? spec.base_slots : shape_.slots); ++s) put(p, s);
    }
    return std::move(data_);
  }

 private:
  std::byte *keep(int64_t bytes) { return data_->bytes.emplace_back(static_cast<size_t>(bytes)).data(); }

  // One piece: all rows of a slot of a part.
  void put(int32_t p, int32_t s) {
    const moe_part &part = data_->plain.parts[static_cast<size_t>(p)];
    const auto at = static_cast<size_t>(s);
    const int64_t in = shape_.in_of.empty() ? shape_.in : shape_.in_of[at];
    const int64_t out = shape_.out_of.empty() ? shape_.out : shape_.out_of[at];
    const int64_t rows = part_rows(part, s, out), columns = part_columns(part, s, in);
    if (rows == 0 || columns == 0) return;
    const RowBytes each = row_bytes(part, columns);
    moe_plain plain{};
    std::byte *const values = keep(rows * each.values);
    plain.values = values;
    fill_values(part, values, rows * columns, rows * each.values, columns);
    const double most = part.store == MOE_I8 ? 127 : 8;
    if (part.outer >= 0) {
      plain.scale = whole(rows * each.scale, 1, 15);
      plain.outer = scales(part.outer, rows, most * 8);
    } else if (part.scale >= 0) {
      plain.scale = scales(part.scale, rows * group_count(part, columns), most);
      if (part.offset >= 0) plain.offset = normals(part.offset, rows * group_count(part, columns), deviation() / 4);
    }
    if (part.kind == MOE_PART_ROWS) plain.index = row_index(rows, out);
    if (part.kind == MOE_PART_SPARSE) plain.index = places(part, values, each, rows, columns, in);
    data_->plain.pieces.push_back({p, s, 0, rows, plain});
  }

  double deviation() const { return 1 / std::sqrt(static_cast<double>(shape_.in)); }

  void fill_values(const moe_part &part, std::byte *to, int64_t count, int64_t bytes, int64_t columns) {
    if (integer_store(part.store)) {
      for (int64_t i = 0; i < bytes; i += 8) {
        const uint64_t bits = random_.bits();
        std::memcpy(to + i, &bits, static_cast<size_t>(std::min<int64_t>(8, bytes - i)));
      }
      return;
    }
    const bool factor = part.kind == MOE_PART_FACTOR_OUT;
    const double width = factor ? 1 / std::sqrt(static_cast<double>(columns)) : deviation();
    test::Array view{part.store, {count}, {}};
    view.bytes.resize(static_cast<size_t>(bytes));
    for (int64_t i = 0; i < count; ++i) view.set(i, random_.normal(width));
    std::memcpy(to, view.bytes.data(), view.bytes.size());
  }
  const void *normals(int32_t dtype, int64_t count, double width) {
    return data_->bytes.emplace_back(random_.normals(dtype, {count}, width).bytes).data();
  }
  // Codes of up to `most` become values of about the deviation.
  const void *scales(int32_t dtype, int64_t count, double most) {
    test::Array made = test::filled(dtype, {count});
    for (int64_t i = 0; i < count; ++i)
      made.set(i, deviation() / most * (0.5 + static_cast<double>(random_.bits() % 1024) / 512));
    return data_->bytes.emplace_back(std::move(made.bytes)).data();
  }
  const void *whole(int64_t bytes, int64_t low, int64_t high) {
    std::byte *const to = keep(bytes);
    for (int64_t i = 0; i < bytes; ++i) to[i] = static_cast<std::byte>(random_.between(low, high));
    return to;
  }
  const void *row_index(int64_t rows, int64_t out) {
    std::vector<int32_t> chosen = random_.distinct(rows, out);
    std::sort(chosen.begin(), chosen.end());
    return data_->sizes.emplace_back(std::move(chosen)).data();
  }
  // n ascending places of every m; a value whose place lies past the inputs becomes 0.
  const void *places(const moe_part &part, std::byte *values, const RowBytes &each, int64_t rows, int64_t columns,
                     int64_t in) {
    std::byte *const to = keep(rows * columns);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t first = 0; first < columns; first += part.n) {
        std::vector<int32_t> chosen = random_.distinct(part.n, part.m);
        std::sort(chosen.begin(), chosen.end());
        for (int64_t i = 0; i < part.n; ++i) {
          to[row * columns + first + i] = static_cast<std::byte>(chosen[static_cast<size_t>(i)]);
          if (first / part.n * part.m + chosen[static_cast<size_t>(i)] >= in)
            clear(part.store, values + row * each.values, first + i);
        }
      }
    }
    return to;
  }
  static void clear(int32_t store, std::byte *row, int64_t index) {
    if (store == MOE_I4) {
      row[index / 2] &= index % 2 == 0 ? std::byte{0xf0} : std::byte{0x0f};
    } else {
      const int64_t bytes = dtype_bytes(store, 1);
      std::memset(row + index * bytes, 0, static_cast<size_t>(bytes));
    }
  }

  const BankShape &shape_;
  Random &random_;
  std::shared_ptr<BankData> data_ = std::make_shared<BankData>();
};

}  // namespace

std::shared_ptr<const BankData> random_bank(const BankShape &shape, Random &random) {
  return Builder(shape, random).build();
}

std::string describe(const std::vector<moe_part> &parts) {
  std::string text;
  for (const moe_part &part : parts) {
    if (!text.empty()) text += " + ";
    switch (part.kind) {
      case MOE_PART_BIAS:
        text += "bias";
        continue;
      case MOE_PART_FACTOR_IN:
        text += "rank " + std::to_string(part.size) + " ";
        break;
      case MOE_PART_FACTOR_OUT:
        text.resize(text.size() - 3);
        continue;
      case MOE_PART_ROWS:
        text += std::to_string(part.size) + " rows ";
        break;
      case MOE_PART_SPARSE:
        text += std::to_string(part.n) + ":" + std::to_string(part.m) + " ";
        break;
      default:
        break;
    }
    text += dtypes[static_cast<size_t>(part.store)].name;
    if (part.scale >= 0) text += part.group > 0 ? " group " + std::to_string(part.group) : " channel";
    if (part.offset >= 0) text += " offset";
    if (part.outer >= 0) text += " dual";
  }
  return text;
}

}  // namespace moe::gpu_check
