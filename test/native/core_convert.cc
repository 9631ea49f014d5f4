#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "core/convert.h"
#include "core_check.h"
#include "moe/half.h"
#include "moe/weight_spec.h"

namespace {

using moe::PlainRows;

const moe_part f32 = moe::make_form("form", "f32", "", false, 0);

moe_plain plain_of(const std::vector<float> &values) { return {values.data(), nullptr, nullptr, nullptr, nullptr}; }

std::vector<float> random_rows(int64_t count, unsigned seed, float size) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> values(static_cast<size_t>(count));
  for (float &value : values) value = normal(random);
  return values;
}

float number_at(int32_t dtype, const void *from, int64_t index) {
  if (dtype == MOE_F16) {
    uint16_t bits;
    std::memcpy(&bits, static_cast<const char *>(from) + index * 2, 2);
    return moe::f16_to_f32(bits);
  }
  float value;
  std::memcpy(&value, static_cast<const char *>(from) + index * 4, 4);
  return value;
}

// Quantizes, reads back through convert_rows and returns the largest error in steps of |scale|.
double worst_error_in_steps(const moe_part &form, const std::vector<float> &rows, int64_t count, int64_t columns) {
  PlainRows quantized, back;
  const moe_plain plain = moe::convert_rows(f32, plain_of(rows), form, quantized, count, columns);
  const moe_plain wide = moe::convert_rows(form, plain, f32, back, count, columns);
  const int64_t groups = moe::group_count(form, columns), group = form.group == 0 ? columns : form.group;
  double worst = 0;
  for (int64_t i = 0; i < count; ++i)
    for (int64_t k = 0; k < columns; ++k) {
      const double step = std::abs(number_at(form.scale, plain.scale, i * groups + k / group));
      const double error = std::abs(static_cast<double>(number_at(MOE_F32, wide.values, i * columns + k)) -
                                    rows[static_cast<size_t>(i * columns + k)]);
      worst = std::max(worst, step == 0 ? error * 1e30 : error / step);
    }
  return worst;
}

}  // namespace

TEST_CASE("quantization errs by at most half a step (I4 symmetric: one step where the signed scale clips)") {
  for (const char *store : {"i8", "i4"})
    for (const char *scale : {"f16", "f32"})
      for (const bool offset : {false, true})
        for (const double group : {0.0, 32.0, 64.0, 128.0})
          for (const float size : {1e-7f, 1e-3f, 0.02f, 30.0f}) {
            const moe_part form = moe::make_form("form", store, scale, offset, group);
            const int64_t columns = 133;  // odd, and no multiple of a group
            CAPTURE(store);
            CAPTURE(scale);
            CAPTURE(offset);
            CAPTURE(group);
            CAPTURE(size);
            const bool signed_scale = form.store == MOE_I4 && !offset;
            const bool coarse_offset = offset && scale[1] == '1';  // an f16 offset is itself off by up to half a step
            const double bound = signed_scale || coarse_offset ? 1.001 : 0.501;
            CHECK(worst_error_in_steps(form, random_rows(5 * columns, 7, size), 5, columns) <= bound);
          }
}

TEST_CASE("rows of zeros and rows of one value survive every form") {
  for (const char *store : {"i8", "i4"})
    for (const char *scale : {"f16", "f32"})
      for (const bool offset : {false, true})
        for (const float value : {0.0f, 1.0f, -1.0f, 1e-12f}) {
          const moe_part form = moe::make_form("form", store, scale, offset, 32);
          CAPTURE(store);
          CAPTURE(scale);
          CAPTURE(offset);
          CAPTURE(value);
          const std::vector<float> rows(64, value);
          PlainRows quantized, back;
          const moe_plain wide =
              moe::convert_rows(form, moe::convert_rows(f32, plain_of(rows), form, quantized, 2, 32), f32, back, 2, 32);
          CHECK(number_at(MOE_F32, wide.values, 40) == doctest::Approx(value).epsilon(2e-3));
        }
}

TEST_CASE("symmetric I4 uses the code -8 where one large value of one sign rules the group") {
  std::vector<float> rows(32);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i % 8);  // 0 … 7, then one 8
  rows[31] = 8;
  const moe_part form = moe::make_form("form", "i4", "f32", false, 32);
  PlainRows quantized, back;
  const moe_plain plain = moe::convert_rows(f32, plain_of(rows), form, quantized, 1, 32);
  CHECK(number_at(MOE_F32, plain.scale, 0) == -1.0f);
  const moe_plain wide = moe::convert_rows(form, plain, f32, back, 1, 32);
  for (int64_t k = 0; k < 32; ++k) CHECK(number_at(MOE_F32, wide.values, k) == rows[static_cast<size_t>(k)]);
}

TEST_CASE("dual-grained: whole scales, products within ±127, at most half a step off in the largest group") {
  for (const char *outer : {"f16", "f32"})
    for (const float size : {1e-3f, 0.02f, 30.0f}) {
      const moe_part form = moe::make_form("form", "i4", "", false, 32, outer);
      const int64_t columns = 133, groups = moe::group_count(form, columns);
      std::vector<float> rows = random_rows(4 * columns, 9, size);
      for (int64_t k = 0; k < columns; ++k) rows[static_cast<size_t>(k)] = 0;  // the first row
      for (int64_t k = 32; k < 64; ++k) rows[static_cast<size_t>(columns + k)] *= 1e-3f;
      PlainRows quantized, back;
      const moe_plain plain = moe::convert_rows(f32, plain_of(rows), form, quantized, 4, columns);
      const moe_plain wide = moe::convert_rows(form, plain, f32, back, 4, columns);
      CHECK_NOTHROW(moe::check_plain(form, columns, columns, 4, plain));
      for (int64_t i = 0; i < 4; ++i) {
        const float row_scale = number_at(form.outer, plain.outer, i);
        for (int64_t k = 0; k < columns; ++k) {
          const int8_t inner = static_cast<const int8_t *>(plain.scale)[i * groups + k / 32];
          const float value = rows[static_cast<size_t>(i * columns + k)];
          const float error = std::abs(number_at(MOE_F32, wide.values, i * columns + k) - value);
          // The scale itself is off by up to half an outer scale, which the largest codes feel seven times.
          CHECK(error <= row_scale * (0.501f * static_cast<float>(inner) + 3.6f));
        }
      }
      CHECK(static_cast<const int8_t *>(plain.scale)[groups + 1] == 1);
    }
}

TEST_CASE("a sparse row has the scale of its kept values in each group of dense inputs") {
  moe_part form = moe::make_form("form", "i8", "f32", false, 32), source = f32;
  for (moe_part *part : {&form, &source}) part->kind = MOE_PART_SPARSE, part->n = 1, part->m = 8;
  const std::vector<float> rows{1, -2, 0.5f, 0, 127, 3, 0, 0, 5};  // 4 kept of each 32, then one of 8
  PlainRows quantized;
  const moe_plain plain = moe::convert_rows(source, plain_of(rows), form, quantized, 1, 9);
  CHECK(moe::group_count(form, 9) == 3);
  CHECK(number_at(MOE_F32, plain.scale, 0) == 2 / 127.0f);
  CHECK(number_at(MOE_F32, plain.scale, 1) == 1);
  CHECK(number_at(MOE_F32, plain.scale, 2) == 5 / 127.0f);
  CHECK(static_cast<const int8_t *>(plain.values)[5] == 3);
}

TEST_CASE("I4 nibbles: even index low, two's complement, formula scale·code − offset") {
  const moe_part form = moe::make_form("form", "i4", "f32", true, 0);
  const uint8_t codes[] = {0x8f, 0x07};  // -1, -8, 7
  const float scale = 2, offset = 3;
  PlainRows back;
  const moe_plain wide = moe::convert_rows(form, {codes, &scale, &offset, nullptr, nullptr}, f32, back, 1, 3);
  CHECK(number_at(MOE_F32, wide.values, 0) == -5.0f);
  CHECK(number_at(MOE_F32, wide.values, 1) == -19.0f);
  CHECK(number_at(MOE_F32, wide.values, 2) == 11.0f);
}

TEST_CASE("a form converted to itself passes through, an unaligned source is copied") {
  const std::vector<float> rows = random_rows(64, 3, 1);
  PlainRows storage;
  CHECK(moe::convert_rows(f32, plain_of(rows), f32, storage, 2, 32).values == rows.data());
  std::vector<char> shifted(65 * 4);
  std::memcpy(shifted.data() + 1, rows.data(), 64 * 4);
  const moe_plain copied =
      moe::convert_rows(f32, {shifted.data() + 1, nullptr, nullptr, nullptr, nullptr}, f32, storage, 2, 32);
  CHECK(copied.values == storage.values.data());
  CHECK(std::memcmp(copied.values, rows.data(), 64 * 4) == 0);
}

TEST_CASE("float forms: bf16 and f16 round to nearest, from any row offset") {
  const std::vector<float> rows = random_rows(3 * 7, 5, 1);
  for (const char *store : {"f16", "bf16"}) {
    const moe_part form = moe::make_form("form", store, "", false, 0);
    PlainRows half, back;
    const moe_plain wide =
        moe::convert_rows(form, moe::convert_rows(f32, plain_of(rows), form, half, 3, 7), f32, back, 3, 7);
    for (int64_t i = 0; i < 21; ++i)
      CHECK(number_at(MOE_F32, wide.values, i) == doctest::Approx(rows[static_cast<size_t>(i)]).epsilon(0.004));
  }
}

TEST_CASE("conversion refuses what it cannot keep, naming the row") {
  std::vector<float> rows(64, 1.0f);
  PlainRows storage;
  const auto convert = [&](const moe_part &form) {
    return error_of([&] { moe::convert_rows(f32, plain_of(rows), form, storage, 2, 32, 10); });
  };
  rows[40] = std::numeric_limits<float>::quiet_NaN();
  CHECK(convert(moe::make_form("form", "i8", "", false, 0)) ==
        "INVALID_ARGUMENT row 11: expected finite weights, got NaN or infinity");
  rows[40] = std::numeric_limits<float>::infinity();
  CHECK(convert(moe::make_form("form", "i4", "", true, 32)).starts_with("INVALID_ARGUMENT row 11"));
  rows[40] = 1e9f;
  CHECK(convert(moe::make_form("form", "i4", "f16", true, 32))
            .starts_with("UNSUPPORTED row 11: expected a scale within ±65504, or scale 'f32'"));
  CHECK(convert(moe::make_form("form", "i4", "f32", true, 32)) == "");
  CHECK(convert(moe::make_form("form", "f16", "", false, 0)).starts_with("UNSUPPORTED row 11"));
  CHECK(convert(moe::make_form("form", "bf16", "", false, 0)) == "");
}

TEST_CASE("forms are checked") {
  const auto form = [](const char *store, const char *scale, bool offset, double group) {
    return error_of([&] { moe::make_form("form", store, scale, offset, group); });
  };
  CHECK(form("f64", "", false, 0) ==
        "INVALID_ARGUMENT form.store: expected 'f32', 'f16', 'bf16', 'i8' or 'i4', got 'f64'");
  CHECK(form("i8", "", false, 33).starts_with("INVALID_ARGUMENT form.group: expected 0, 32, 64 or 128"));
  CHECK(form("i8", "", false, std::nan("")).starts_with("INVALID_ARGUMENT form.group"));
  CHECK(form("i8", "bf16", false, 0).starts_with("INVALID_ARGUMENT form.scale"));
  CHECK(form("bf16", "", true, 0).starts_with("INVALID_ARGUMENT form.offset"));
  const auto dual = [](const char *store, const char *scale, bool offset, double group, const char *outer) {
    return error_of([&] { moe::make_form("form", store, scale, offset, group, outer); });
  };
  CHECK(dual("i4", "i8", false, 64, "f16") == "");
  CHECK(dual("i4", "i8", false, 64, "bf16").starts_with("INVALID_ARGUMENT form.outer"));
  CHECK(dual("i8", "", false, 64, "f16").starts_with("INVALID_ARGUMENT form.outer"));
  CHECK(dual("i4", "f16", false, 64, "f16").starts_with("INVALID_ARGUMENT form.scale"));
  CHECK(dual("i4", "", true, 64, "f16").starts_with("INVALID_ARGUMENT form.offset"));
  CHECK(dual("i4", "", false, 0, "f16").starts_with("INVALID_ARGUMENT form.group"));
  const moe::RowBytes bytes = moe::row_bytes(moe::make_form("form", "i4", "f16", true, 32), 65);
  CHECK(bytes.values == 33);
  CHECK(bytes.scale == 6);
  CHECK(bytes.offset == 6);
  CHECK(error_of([&] { moe::row_bytes(f32, std::numeric_limits<int64_t>::max()); }).starts_with("INVALID_ARGUMENT"));
}
