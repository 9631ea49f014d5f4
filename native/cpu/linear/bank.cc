// Packs the plain rows of a weight into the tiles that the kernels stream, each row once.
// Layout: in, plain rows as backend.h draws them; out, tile.h.
// Bound: memory, one read of the rows and one scattered write of the bank; a thread takes the rows of a tile together.
#include "linear/bank.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/half.h"
#include "moe/part.h"

namespace moe::cpu {
namespace {

std::string text(int64_t value) { return std::to_string(value); }

void require(bool good, std::string_view argument, std::string_view expected, std::string_view received) {
  if (!good) throw Error(MOE_INVALID_ARGUMENT, argument, expected, received);
}

// What the tiles have no form for yet, by the name of the part.
void refuse_parts(const moe_weight_spec &spec) {
  const auto refuse = [](const char *what) {
    throw Error(MOE_UNSUPPORTED, "parts", "a base of floats, i8 or i4, and a bias, on the cpu", what);
  };
  for (int32_t i = 0; i < spec.part_count; ++i) {
    const int32_t kind = spec.parts[i].kind;
    if (kind == MOE_PART_FACTOR_IN || kind == MOE_PART_FACTOR_OUT) refuse("low-rank factors");
    if (kind == MOE_PART_ROWS) refuse("kept rows");
    if (kind == MOE_PART_SPARSE) refuse("an n:m sparse part");
    if (spec.parts[i].outer >= 0) refuse("dual-grained scales");
  }
  if (spec.base_of != nullptr) refuse("a base that slots share");
}

void check_base(const moe_part &part) {
  require(dtype_float(part.store) || integer_store(part.store), "store", "f32, f16, bf16, i8 or i4", text(part.store));
  if (!integer_store(part.store)) return;
  require(part.group == 0 || part.group == 32 || part.group == 64 || part.group == 128, "group", "0, 32, 64 or 128",
          text(part.group));
  require(part.scale == MOE_F16 || part.scale == MOE_F32, "scale", "f16 or f32", text(part.scale));
  require(part.offset < 0 || part.offset == part.scale, "offset", "none, or the dtype of the scale", text(part.offset));
}

// Bytes of one tile of a slot: tile.h.
int64_t tile_bytes(const Slot &slot) {
  if (!integer_store(slot.store)) {
    return checked_multiply(slot.in, tile_outputs * dtype_bytes(slot.store, 1), "in");
  }
  const int64_t groups = slot.group ? ceil_divide(slot.in, slot.group) : (slot.in > 0 ? 1 : 0);
  const int64_t head = tile_outputs * dtype_bytes(slot.scale, 1) * (slot.offset >= 0 ? 2 : 1);
  const int64_t codes = checked_multiply(slot.padded, dtype_bytes(slot.store, tile_outputs), "in");
  return checked_add(checked_multiply(groups, head, "in"), codes, "in");
}

}  // namespace

Bank::Bank(std::shared_ptr<Device> device, const moe_weight_spec &spec)
    : device_(std::move(device)), in_(spec.in), out_(spec.out), gated_(spec.gated != 0) {
  require(spec.in >= 0 && spec.in < (int64_t{1} << 31), "in", "0 to 2^31", text(spec.in));
  require(spec.out >= 0 && spec.out < (int64_t{1} << 31), "out", "0 to 2^31", text(spec.out));
  require(spec.slots > 0, "slots", "at least 1", text(spec.slots));
  refuse_parts(spec);
  for (int32_t i = 0; i < spec.part_count; ++i) {
    const moe_part &part = spec.parts[i];
    require(part.kind == MOE_PART_BASE || part.kind == MOE_PART_BIAS, "parts", "a base and at most one bias",
            text(part.kind));
    int32_t &place = part.kind == MOE_PART_BASE ? base_part_ : bias_part_;
    require(place < 0, "parts", "each kind once", "the same kind twice");
    place = i;
  }
  require(base_part_ >= 0, "parts", "a base", "none");
  base_ = spec.parts[base_part_];
  check_base(base_);

  int64_t bytes = 0;
  std::vector<int64_t> starts;
  for (int32_t s = 0; s < spec.slots; ++s) {
    Slot slot;
    slot.in = spec.in_of ? spec.in_of[s] : spec.in;
    slot.out = spec.out_of ? spec.out_of[s] : spec.out;
    require(slot.in >= 0 && slot.in <= spec.in, "in_of", "0 to " + text(spec.in), text(slot.in));
    require(slot.out >= 0 && slot.out <= spec.out, "out_of", "0 to " + text(spec.out), text(slot.out));
    require(!gated_ || slot.out % 2 == 0, "out", "an even number where gated", text(slot.out));
    slot.gated = gated_;
    slot.padded = align_up(slot.in, 8);
    slot.store = base_.store;
    slot.scale = integer() ? base_.scale : -1;
    slot.offset = integer() ? base_.offset : -1;
    slot.group = integer() ? base_.group : 0;
    slot.tile_count = ceil_divide(slot.columns(), gated_ ? tile_outputs / 2 : tile_outputs);
    slot.tile_bytes = tile_bytes(slot);
    starts.push_back(bytes);
    bytes = checked_add(bytes, align_up(checked_multiply(slot.tile_count, slot.tile_bytes, "out")), "slots");
    slots_.push_back(slot);
  }
  const int64_t bias_start = bytes;
  if (bias_part_ >= 0) {
    for (const Slot &slot : slots_) bytes = checked_add(bytes, slot.tile_count * tile_outputs * 4, "slots");
  }
  memory_ = Memory(device_, static_cast<size_t>(bytes));

  int64_t bias = bias_start;
  for (size_t s = 0; s < slots_.size(); ++s) {
    slots_[s].tiles = memory_.data() + starts[s];
    if (bias_part_ >= 0) {
      slots_[s].bias = reinterpret_cast<const float *>(memory_.data() + bias);
      bias += slots_[s].tile_count * tile_outputs * 4;
    }
  }
  // Zeros first: scales of absent outputs, biases, and codes of padded inputs (which only ever meet x = 0).
  const int64_t chunk = int64_t{4} << 20;
  Pool::shared().parallel_for(ceil_divide(bytes, chunk), device_->threads(), [&](int64_t i, int) {
    std::memset(memory_.data() + i * chunk, 0, static_cast<size_t>(std::min(chunk, bytes - i * chunk)));
  });
  missing_.assign(static_cast<size_t>(spec.part_count) * slots_.size(), 0);
  for (size_t i = 0; i < missing_.size(); ++i) missing_[i] = slots_[i % slots_.size()].out;
}

Bank::Place Bank::place(const Slot &slot, int64_t row) const {
  if (!gated_) return {row / tile_outputs, static_cast<int>(row % tile_outputs)};
  constexpr int half = tile_outputs / 2;
  const bool up = row >= slot.columns();
  const int64_t column = up ? row - slot.columns() : row;
  return {column / half, static_cast<int>(column % half) + (up ? half : 0)};
}

void Bank::put_float(std::byte *tiles, const Slot &slot, int64_t row, const std::byte *values) const {
  const auto [tile, lane] = place(slot, row);
  std::byte *const to = tiles + tile * slot.tile_bytes;
  if (slot.store == MOE_F32) {
    for (int64_t k = 0; k < slot.in; ++k) std::memcpy(to + (k * tile_outputs + lane) * 4, values + k * 4, 4);
  } else {
    for (int64_t k = 0; k < slot.in; ++k) std::memcpy(to + (k * tile_outputs + lane) * 2, values + k * 2, 2);
  }
}

void Bank::put_integer(std::byte *tiles, const Slot &slot, int64_t row, const std::byte *values, const std::byte *scale,
                       const std::byte *offset) const {
  const auto [tile, lane] = place(slot, row);
  std::byte *to = tiles + tile * slot.tile_bytes;
  const int64_t value_bytes = dtype_bytes(slot.scale, 1);
  const int64_t group = slot.group ? slot.group : slot.padded;
  const auto *const source = reinterpret_cast<const uint8_t *>(values);
  const auto nibble = [&](int64_t k) -> uint8_t {  // plain code + 8; 8 past the end
    if (k >= slot.in) return 8;
    return static_cast<uint8_t>(((source[k / 2] >> (k % 2 * 4)) & 15) ^ 8);
  };
  for (int64_t begin = 0, g = 0; begin < slot.in; begin += group, ++g) {
    std::memcpy(to + lane * value_bytes, scale + g * value_bytes, static_cast<size_t>(value_bytes));
    to += tile_outputs * value_bytes;
    if (slot.offset >= 0) {
      std::memcpy(to + lane * value_bytes, offset + g * value_bytes, static_cast<size_t>(value_bytes));
      to += tile_outputs * value_bytes;
    }
    const int64_t end = std::min(slot.padded, begin + group);
    if (slot.store == MOE_I4) {
      for (int64_t k = begin; k < end; k += 8, to += tile_outputs * 4) {
        for (int j = 0; j < 4; ++j) {
          to[lane * 4 + j] = static_cast<std::byte>(nibble(k + j) | nibble(k + 4 + j) << 4);
        }
      }
    } else {
      for (int64_t k = begin; k < end; k += 4, to += tile_outputs * 4) {
        for (int j = 0; j < 4; ++j) {
          to[lane * 4 + j] = static_cast<std::byte>(k + j < slot.in ? source[k + j] ^ 0x80 : 0x80);
        }
      }
    }
  }
}

void Bank::put(int32_t part, int32_t slot_index, int64_t row, int64_t rows, const moe_plain &plain) {
  require(part >= 0 && (part == base_part_ || part == bias_part_), "part", "a part of the bank", text(part));
  require(slot_index >= 0 && slot_index < slots(), "slot", "below " + text(slots()), text(slot_index));
  const Slot &slot = slots_[static_cast<size_t>(slot_index)];
  int64_t &missing = missing_[static_cast<size_t>(part) * slots_.size() + static_cast<size_t>(slot_index)];
  require(row >= 0 && rows >= 0 && row <= slot.out && rows <= slot.out - row, "row", "rows below " + text(slot.out),
          text(row) + " + " + text(rows));
  require(rows <= missing, "row", "each row once", text(rows - missing) + " rows too many");
  missing -= rows;
  if (rows == 0) return;
  require(plain.values || slot.in == 0, "values", "host rows", "none");
  std::byte *const tiles = memory_.data() + (slot.tiles - memory_.data());
  const auto *const values = static_cast<const std::byte *>(plain.values);

  if (part == bias_part_) {
    float *const bias =
        reinterpret_cast<float *>(memory_.data() + (reinterpret_cast<const std::byte *>(slot.bias) - memory_.data()));
    for (int64_t i = 0; i < rows; ++i) {
      const auto [tile, lane] = place(slot, row + i);
      std::memcpy(bias + tile * tile_outputs + lane, values + i * 4, 4);
    }
    return;
  }
  if (slot.in == 0) return;
  if (integer()) {
    require(plain.scale, "scale", "one for each row and group", "none");
    require(plain.offset || slot.offset < 0, "offset", "one for each row and group", "none");
  }
  const int64_t row_bytes = dtype_bytes(slot.store, slot.in);
  const int64_t groups = slot.group ? ceil_divide(slot.in, slot.group) : 1;
  const int64_t scale_bytes = integer() ? groups * dtype_bytes(slot.scale, 1) : 0;
  const auto *const scale = static_cast<const std::byte *>(plain.scale);
  const auto *const offset = static_cast<const std::byte *>(plain.offset);
  const auto put_row = [&](int64_t i) {
    if (integer()) {
      put_integer(tiles, slot, row + i, values + i * row_bytes, scale + i * scale_bytes,
                  slot.offset >= 0 ? offset + i * scale_bytes : nullptr);
    } else {
      put_float(tiles, slot, row + i, values + i * row_bytes);
    }
  };
  // A thread takes the rows of a tile together, so that its lines stay in the cache.
  const int64_t chunk = tile_outputs;
  const int threads = rows * slot.in < 100'000 ? 1 : device_->threads();
  Pool::shared().parallel_for(ceil_divide(rows, chunk), threads, [&](int64_t i, int) {
    for (int64_t j = i * chunk; j < std::min(rows, (i + 1) * chunk); ++j) put_row(j);
  });
}

size_t Bank::finish() {
  int64_t missing = 0;
  for (const int64_t rows : missing_) missing += rows;
  require(missing == 0, "rows", "every row of every part", text(missing) + " missing");
  return memory_.bytes();
}

}  // namespace moe::cpu
