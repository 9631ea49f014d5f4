// Packs the plain rows of a weight into the tiles that the kernels stream, each row once.
// Layout: in, plain rows as backend.h draws them; out, tile.h.
// Bound: memory, one read of the rows and one scattered write of the bank; a thread takes the rows of a tile together.
#include "linear/bank.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "linear/pack.h"
#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/weight_spec.h"

namespace moe::cpu {
namespace {

std::string text(int64_t value) { return std::to_string(value); }

void require(bool good, std::string_view argument, std::string_view expected, std::string_view received) {
  if (!good) throw Error(MOE_INVALID_ARGUMENT, argument, expected, received);
}

int64_t matrix_bytes(const Matrix &matrix) { return checked_multiply(matrix.tile_count, matrix.tile_bytes, "out"); }

}  // namespace

Bank::Piece Bank::piece_of(const moe_part &form, int64_t in, int64_t out) const {
  const bool outputs = form.kind != MOE_PART_FACTOR_IN && form.kind != MOE_PART_ROWS;
  Piece piece;
  piece.in = in;
  piece.gated_columns = gated_ && outputs ? out / 2 : 0;
  return piece;
}

Bank::Bank(std::shared_ptr<Device> device, const moe_weight_spec &spec)
    : device_(std::move(device)), in_(spec.in), out_(spec.out), gated_(spec.gated != 0) {
  check_weight_spec(spec);
  require(spec.in < (int64_t{1} << 31), "in", "below 2^31", text(spec.in));
  require(spec.out < (int64_t{1} << 31), "out", "below 2^31", text(spec.out));
  for (int32_t i = 0; i < spec.part_count; ++i) {
    const moe_part &form = spec.parts[i];
    Part part{form, {}};
    const bool shared = form.kind == MOE_PART_BASE && spec.base_of != nullptr;
    for (int32_t s = 0; s < (shared ? spec.base_slots : spec.slots); ++s) {
      const int64_t in = spec.in_of ? spec.in_of[s] : spec.in, out = spec.out_of ? spec.out_of[s] : spec.out;
      Piece piece = piece_of(form, in, out);
      piece.rows = piece.missing = part_rows(form, s, out);
      const int64_t columns = part_columns(form, s, in);
      if (form.kind == MOE_PART_SPARSE) {
        piece.sparse = shape_sparse(form, in, piece.rows, gated_);
        piece.matrix = piece.sparse.values;
      } else {
        piece.matrix = shape_matrix(form, columns, piece.rows, piece.gated_columns > 0);
      }
      part.pieces.push_back(piece);
    }
    if (form.kind == MOE_PART_SPARSE) {
      const Sparse widest = shape_sparse(form, spec.in, spec.out, gated_);
      blocks_.resize(static_cast<size_t>(widest.values.padded + widest.values.padded / 4));
      fill_blocks(form, widest, blocks_.data());
    }
    part.form.ragged = nullptr;
    parts_.push_back(std::move(part));
  }
  place_pieces();
  link_slots(spec);
}

// Gives every piece its zeroed memory. Zeros: scales of absent outputs, biases, and what pads a group.
void Bank::place_pieces() {
  int64_t bytes = 0;
  const auto take = [&](int64_t more) {
    const int64_t at = bytes;
    bytes = checked_add(bytes, align_up(more), "slots");
    return at;
  };
  struct Starts {
    int64_t tiles, places, index;
  };
  std::vector<Starts> starts;
  for (const Part &part : parts_) {
    for (const Piece &piece : part.pieces) {
      const Matrix &matrix = piece.matrix;
      const bool bias = part.form.kind == MOE_PART_BIAS, kept = part.form.kind == MOE_PART_ROWS;
      const int64_t tiles = take(bias ? matrix.tile_count * tile_outputs * 4 : matrix_bytes(matrix));
      const int64_t places = take(checked_multiply(matrix.tile_count, piece.sparse.place_bytes, "out"));
      starts.push_back({tiles, places, take(kept ? piece.rows * 4 : 0)});
    }
  }
  memory_ = Memory(device_, static_cast<size_t>(bytes));
  const int64_t chunk = int64_t{4} << 20;
  Pool::shared().parallel_for(ceil_divide(bytes, chunk), device_->threads(), [&](int64_t i, int) {
    std::memset(memory_.data() + i * chunk, 0, static_cast<size_t>(std::min(chunk, bytes - i * chunk)));
  });
  auto start = starts.begin();
  for (Part &part : parts_) {
    for (Piece &piece : part.pieces) {
      piece.tiles = memory_.data() + start->tiles;
      piece.places = memory_.data() + start->places;
      piece.index = reinterpret_cast<int32_t *>(memory_.data() + start->index);
      ++start;
    }
  }
}

// The slots as kernels see them.
void Bank::link_slots(const moe_weight_spec &spec) {
  slots_.resize(static_cast<size_t>(spec.slots));
  for (int32_t s = 0; s < spec.slots; ++s) {
    Slot &slot = slots_[static_cast<size_t>(s)];
    slot.in = spec.in_of ? spec.in_of[s] : spec.in;
    slot.out = spec.out_of ? spec.out_of[s] : spec.out;
    slot.gated = gated_;
    slot.tile_count = ceil_divide(slot.columns(), gated_ ? tile_outputs / 2 : tile_outputs);
    for (const Part &part : parts_) {
      const bool base = part.form.kind == MOE_PART_BASE;
      const Piece &piece = part.pieces[static_cast<size_t>(base && spec.base_of ? spec.base_of[s] : s)];
      Matrix matrix = piece.matrix;
      matrix.tiles = piece.tiles;
      switch (part.form.kind) {
        case MOE_PART_BASE:
          slot.base = matrix;
          break;
        case MOE_PART_BIAS:
          slot.bias = reinterpret_cast<const float *>(piece.tiles);
          break;
        case MOE_PART_FACTOR_IN:
          slot.shrink = matrix;
          break;
        case MOE_PART_FACTOR_OUT:
          slot.expand = matrix;
          break;
        case MOE_PART_ROWS:
          slot.kept = matrix;
          slot.kept_count = piece.rows;
          slot.kept_index = piece.index;
          break;
        default:
          slot.sparse = piece.sparse;
          slot.sparse.values = matrix;
          slot.sparse.places = piece.places;
          slot.sparse.blocks = blocks_.data();
          slot.sparse.spread = blocks_.data() + blocks_.size() / 5 * 4;
      }
    }
  }
  order_.resize(slots_.size());
  std::iota(order_.begin(), order_.end(), 0);
  if (spec.base_of != nullptr) {
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int32_t a, int32_t b) { return spec.base_of[a] < spec.base_of[b]; });
  }
}

const moe_part *Bank::form(int32_t kind) const {
  for (const Part &part : parts_) {
    if (part.form.kind == kind) return &part.form;
  }
  return nullptr;
}

bool Bank::integer() const {
  return std::any_of(parts_.begin(), parts_.end(), [](const Part &part) { return integer_store(part.form.store); });
}

int64_t Bank::early_tiles() const {
  int64_t most = 0;
  for (const Slot &slot : slots_) most = std::max(most, slot.early_tiles());
  return most;
}

void Bank::put(int32_t part_index, int32_t slot, int64_t row, int64_t rows, const moe_plain &plain) {
  require(part_index >= 0 && part_index < static_cast<int64_t>(parts_.size()), "part", "a part of the bank",
          text(part_index));
  Part &part = parts_[static_cast<size_t>(part_index)];
  require(slot >= 0 && slot < static_cast<int64_t>(part.pieces.size()), "slot",
          "below " + text(static_cast<int64_t>(part.pieces.size())), text(slot));
  Piece &piece = part.pieces[static_cast<size_t>(slot)];
  require(row >= 0 && rows >= 0 && row <= piece.rows && rows <= piece.rows - row, "row",
          "rows below " + text(piece.rows), text(row) + " + " + text(rows));
  require(rows <= piece.missing, "row", "each row once", text(rows - piece.missing) + " rows too many");
  const RowBytes each = row_bytes(part.form, piece.matrix.in);
  const auto given = [&](const void *from, int64_t bytes, std::string_view name) {
    require(from || bytes * rows == 0, name, "host rows", "none");
  };
  given(plain.values, each.values, "values");
  given(plain.scale, each.scale, "scale");
  given(plain.offset, each.offset, "offset");
  given(plain.outer, each.outer, "outer");
  given(plain.index, each.index, "index");
  check_plain(part.form, piece.in, piece.matrix.in, rows, plain);
  piece.missing -= rows;
  put_rows(part, piece, row, rows, plain);
}

void Bank::put_rows(const Part &part, const Piece &piece, int64_t row, int64_t rows, const moe_plain &plain) {
  const RowBytes each = row_bytes(part.form, piece.matrix.in);
  const auto at = [](const void *from, int64_t offset) {
    return from ? static_cast<const std::byte *>(from) + offset : nullptr;
  };
  const auto put_row = [&](int64_t i) {
    const Place place = place_of(row + i, piece.gated_columns);
    if (part.form.kind == MOE_PART_BIAS) {
      std::memcpy(piece.tiles + (place.tile * tile_outputs + place.lane) * 4, at(plain.values, i * 4), 4);
      return;
    }
    const moe_plain one{at(plain.values, i * each.values), at(plain.scale, i * each.scale),
                        at(plain.offset, i * each.offset), at(plain.outer, i * each.outer),
                        at(plain.index, i * each.index)};
    if (part.form.kind == MOE_PART_ROWS) std::memcpy(piece.index + row + i, one.index, 4);
    if (piece.matrix.in == 0) return;
    pack_row(piece.matrix, piece.tiles, place, one);
    if (part.form.kind == MOE_PART_SPARSE)
      pack_places(piece.sparse, piece.places, place, static_cast<const uint8_t *>(one.index));
  };
  // A thread takes the rows of a tile together, so that its lines stay in the cache.
  const int64_t chunk = tile_outputs;
  const int threads = rows * piece.matrix.in < 100'000 ? 1 : device_->threads();
  Pool::shared().parallel_for(ceil_divide(rows, chunk), threads, [&](int64_t i, int) {
    for (int64_t j = i * chunk; j < std::min(rows, (i + 1) * chunk); ++j) put_row(j);
  });
}

size_t Bank::finish() {
  int64_t missing = 0;
  for (const Part &part : parts_) {
    for (const Piece &piece : part.pieces) missing += piece.missing;
  }
  require(missing == 0, "rows", "every row of every part", text(missing) + " missing");
  for (const Part &part : parts_) {
    for (size_t s = 0; part.form.kind == MOE_PART_ROWS && s < part.pieces.size(); ++s)
      check_kept_rows(part.pieces[s].index, part.pieces[s].rows, slots_[s].out);
  }
  return memory_.bytes();
}

}  // namespace moe::cpu
