// Kept rows: a small dense matrix of its own, multiplied early. The sums of a tile start from the results that fall among its
// outputs; those of a vector's lanes lie together, so a row's vector is one look-up. Layout of the results: kernels.h, `early`.
// Bound: the store of a row's sums, which would be zeros otherwise.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

int64_t rows_of(const RowBlock *blocks, int32_t count) {
  int64_t rows = 0;
  for (int32_t i = 0; i < count; ++i) rows += blocks[i].rows;
  return rows;
}

void clear(float *sums, int64_t rows) {
  for (int64_t i = 0; i < rows * tile_outputs; i += width) store(sums + i, zero());
}

static_assert(width <= lookup_floats);
static_assert(width <= linear::kept_slack);

// The lanes of a tile that are kept rows.
struct KeptLanes {
  Ints place[vectors];     // of a lane's result behind the first one of its vector
  Vec kept[vectors];       // 1 in these lanes, else 0
  int64_t first[vectors];  // result of the first of them; −1: none
};

// The first kept row of an output from `output` on; the index is ascending.
int64_t first_kept(const Slot &slot, int64_t output) {
  int64_t low = 0, high = slot.kept_count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (slot.kept_index[middle] < output) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// body(result, lane) for each kept row among the outputs of a tile.
template <typename Body>
MOE_INLINE void for_kept(const Slot &slot, int64_t tile, const Body &body) {
  const int64_t columns = slot.columns(), count = slot.gated ? tile_outputs / 2 : tile_outputs;
  const int64_t begin = tile * count, end = least(columns, begin + count);
  for (int64_t half = 0; half < (slot.gated ? 2 : 1); ++half) {
    const int64_t first = half * columns + begin, last = half * columns + end;
    for (int64_t k = first_kept(slot, first); k < slot.kept_count && slot.kept_index[k] < last; ++k)
      body(k, half * count + slot.kept_index[k] - first);
  }
}

KeptLanes kept_lanes(const Slot &slot, int64_t tile) {
  alignas(64) int32_t place[tile_outputs] = {};
  alignas(64) float kept[tile_outputs] = {};
  KeptLanes lanes;
  for (int v = 0; v < vectors; ++v) lanes.first[v] = -1;
  for_kept(slot, tile, [&](int64_t k, int64_t lane) {
    int64_t &first = lanes.first[lane / width];
    if (first < 0) first = k;
    place[lane] = static_cast<int32_t>(k - first);
    kept[lane] = 1.0f;
  });
  for (int v = 0; v < vectors; ++v)
    lanes.place[v] = load_ints(place + v * width), lanes.kept[v] = load(kept + v * width);
  return lanes;
}

// sums [rows][32] = the results of kept rows, 0 in other lanes.
void start_sums(const Call &call, const Slot &slot, const KeptLanes &lanes, const RowBlock *blocks, int32_t count,
                float *sums) {
  const int64_t row_floats = slot.kept.tile_count * tile_outputs;
  for (int32_t i = 0; i < count; ++i) {
    const float *results = kept_results(call, slot, blocks[i]);
    for (int32_t r = 0; r < blocks[i].rows; ++r, results += row_floats, sums += tile_outputs) {
      for (int v = 0; v < vectors; ++v) {
        Vec start = zero();
        if (lanes.first[v] >= 0) {
          start = select(greater(lanes.kept[v], zero()), lookup(results + lanes.first[v], lanes.place[v]), zero());
        }
        store(sums + v * width, start);
      }
    }
  }
}

// Rows up to which a tile's sums are started one by one: for so few, its lanes take longer to mark than to fill.
constexpr int64_t few_rows = 4;

void start_few(const Call &call, const Slot &slot, int64_t tile, const RowBlock *blocks, int32_t count, float *sums) {
  clear(sums, rows_of(blocks, count));
  const int64_t row_floats = slot.kept.tile_count * tile_outputs;
  for_kept(slot, tile, [&](int64_t k, int64_t lane) {
    float *to = sums + lane;
    for (int32_t i = 0; i < count; ++i) {
      const float *from = kept_results(call, slot, blocks[i]) + k;
      for (int32_t r = 0; r < blocks[i].rows; ++r, from += row_floats, to += tile_outputs) *to = *from;
    }
  });
}

void start_tile(const Call &call, const Slot &slot, int64_t tile, const RowBlock *blocks, int32_t count, float *sums) {
  if (slot.kept_count == 0 || rows_of(blocks, count) <= few_rows)
    return start_few(call, slot, tile, blocks, count, sums);
  start_sums(call, slot, kept_lanes(slot, tile), blocks, count, sums);
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
