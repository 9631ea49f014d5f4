// place_blocks: offsets in one arena.
#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "core/plan.h"
#include "moe/checked.h"

namespace moe {

int64_t place_blocks(std::span<Block> blocks) {
  std::vector<size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return blocks[a].bytes > blocks[b].bytes; });

  int64_t arena = 0;
  std::vector<size_t> placed;  // in order of offset
  placed.reserve(blocks.size());
  for (const size_t index : order) {
    Block &block = blocks[index];
    const int64_t bytes = align_up(block.bytes);
    // The gaps between the placed blocks alive at the same time; the smallest that fits wins, else the end of them.
    int64_t best = -1, best_gap = std::numeric_limits<int64_t>::max(), end = 0;
    for (const size_t other_index : placed) {
      const Block &other = blocks[other_index];
      if (other.last < block.first || block.last < other.first) continue;
      const int64_t gap = other.offset - end;
      if (gap >= bytes && gap < best_gap) {
        best = end;
        best_gap = gap;
      }
      end = std::max(end, other.offset + align_up(other.bytes));
    }
    block.offset = best >= 0 ? best : end;
    arena = std::max(arena, checked_add(block.offset, bytes, "arena"));
    const auto place = std::upper_bound(placed.begin(), placed.end(), block.offset,
                                        [&](int64_t offset, size_t other) { return offset < blocks[other].offset; });
    placed.insert(place, index);
  }
  return arena;
}

}  // namespace moe
