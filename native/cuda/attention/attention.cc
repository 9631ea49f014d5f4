// attention: which form computes a node. The caches are written first, by a kernel of their own.
#include <algorithm>
#include <bit>

#include "attention/forms.h"
#include "moe/checked.h"
#include "moe/dtype.h"

namespace moe::cuda {
namespace {

// Parts of the keys in batch-invariant mode, where they must not depend on how many tokens a run has.
constexpr int32_t invariant_splits = 8, most_splits = 32;
constexpr int64_t scratch_alignment = 256, keys_worth_a_split = 128;
// A run of fewer tokens is left to the decode form.
constexpr int64_t least_tile_run = 16;
constexpr int32_t most_tile_heads = 16;

int64_t align(int64_t bytes) {
  return checked_add(bytes, scratch_alignment - 1, "scratch") / scratch_alignment * scratch_alignment;
}

// Sizes of the node's operands, which are those of the largest run.
AttentionSizes sizes_of(const Node &node) {
  const int64_t sequences = node.input[5].rows();
  const int64_t table = node.input[6].rows() / std::max<int64_t>(1, sequences);
  return {node.input[0].rows(), sequences, checked_multiply(table, node.input[7].dim[1], "attention")};
}

// The most tokens that tiles leave to the decode form. Of a tile's sequences each may have one too few; where its tokens are
// more than that, one of them has enough.
int64_t tokens_left(const AttentionArguments &a, const AttentionSizes &sizes) {
  if (a.tile_tokens == 0) return sizes.tokens;
  const int64_t too_few = a.tile_least - 1, sequences = std::max<int64_t>(1, sizes.sequences);
  const auto of_tile = [&](int64_t tokens) {
    return tokens <= sequences * too_few ? tokens : (sequences - 1) * too_few;
  };
  return sizes.tokens / a.tile_tokens * of_tile(a.tile_tokens) + of_tile(sizes.tokens % a.tile_tokens);
}

struct Plan {
  AttentionSizes sizes;
  AttentionArguments arguments;
  int64_t sum_bytes, state_bytes, counter_bytes;
};

Plan plan(const Device &device, const Node &node) {
  const auto &attributes = node.as<moe_attention>();
  const auto &in = node.input;
  Plan plan{sizes_of(node), {}, 0, 0, 0};
  AttentionArguments &a = plan.arguments;
  a.q = in[0].place;
  a.k = in[1].place;
  a.v = in[2].place;
  a.positions = in[3].place;
  a.sequence = in[4].place;
  a.lengths = in[5].place;
  a.pages = in[6].place;
  a.k_cache = in[7].place;
  a.v_cache = in[8].place;
  a.y = node.output[0].place;
  a.heads = attributes.heads;
  a.kv_heads = attributes.kv_heads;
  a.group = a.heads / a.kv_heads;
  a.size = static_cast<int32_t>(in[0].width() / a.heads);
  a.page_size = static_cast<int32_t>(in[7].dim[1]);
  const auto page = static_cast<uint32_t>(a.page_size);
  a.page_shift = std::has_single_bit(page) ? std::countr_zero(page) : -1;
  a.causal = attributes.causal;
  a.window = attributes.window;
  a.scale = attributes.scale;
  a.soft_cap = attributes.soft_cap;

  // Tiles: as many heads of a group as leave a tile several tokens. One that gets an eighth of its tokens is worth it.
  if (!device.batch_invariant() && plan.sizes.tokens >= least_tile_run && plan.sizes.tokens > plan.sizes.sequences &&
      a.size <= tile_largest_size) {
    const int32_t chunks = (a.group + most_tile_heads - 1) / most_tile_heads;
    a.tile_heads = (a.group + chunks - 1) / chunks;
    a.tile_tokens = tile_rows / a.tile_heads;
    a.tile_least = std::max(2, a.tile_tokens / 8);
  }

  const int together = decode_heads(a);
  a.counters = a.kv_heads * ((a.group + together - 1) / together);
  const int64_t blocks = std::max<int64_t>(1, plan.sizes.tokens) * a.counters;
  const int64_t wanted = (4 * device.multiprocessors() + blocks - 1) / blocks;
  // A run of fewer sequences may give each more pages: all of them to one is the bound.
  const int64_t most_keys = checked_multiply(in[6].rows(), in[7].dim[1], "attention");
  const int64_t worth = std::max<int64_t>(1, most_keys / keys_worth_a_split);
  a.splits = device.batch_invariant() ? invariant_splits
                                      : static_cast<int32_t>(std::min({wanted, worth, int64_t{most_splits}}));
  if (a.splits > 1) {
    const int64_t parts =
        checked_multiply(checked_multiply(plan.sizes.tokens, a.heads, "scratch"), a.splits, "scratch");
    plan.sum_bytes = align(checked_multiply(parts, 4 * int64_t{a.size}, "scratch"));
    plan.state_bytes = align(checked_multiply(parts, 8, "scratch"));
    plan.counter_bytes = align(checked_multiply(plan.sizes.tokens, 4 * int64_t{a.counters}, "scratch"));
  }
  return plan;
}

}  // namespace

dim3 tile_blocks(const AttentionArguments &a, const AttentionSizes &sizes) {
  const unsigned chunks = blocks_for(a.group, a.tile_heads);
  return dim3(blocks_for(sizes.tokens, a.tile_tokens), static_cast<unsigned>(a.kv_heads) * chunks);
}

Work tile_work(const char *kernel, const AttentionArguments &a, const AttentionSizes &sizes) {
  const dim3 blocks = tile_blocks(a, sizes);
  const int64_t keys = static_cast<int64_t>(blocks.x) * blocks.y * sizes.keys;
  const int64_t elements = sizes.tokens * a.heads * a.size;
  return {kernel,
          2 * dtype_bytes(a.k_cache.dtype, keys * a.size) + dtype_bytes(a.q.dtype, elements) +
              dtype_bytes(a.y.dtype, elements),
          4 * sizes.keys * elements};
}

dim3 decode_blocks(const AttentionArguments &a, const AttentionSizes &sizes) {
  return dim3(blocks_for(sizes.tokens, 1), static_cast<unsigned>(a.counters), static_cast<unsigned>(a.splits));
}

Work decode_work(const char *kernel, const AttentionArguments &a, const AttentionSizes &sizes) {
  const int64_t tokens = tokens_left(a, sizes), elements = tokens * a.heads * a.size;
  const int64_t keys = tokens * a.counters * sizes.keys;
  const int64_t parts = a.splits > 1 ? 2 * tokens * a.heads * a.splits : 0;
  // Each of a block's four warps looks at the sequences of its token's tile, to see whether the token is left.
  const int64_t warps = a.tile_tokens > 0 ? 4 * sizes.tokens * a.counters * a.splits : 0;
  return {kernel,
          2 * dtype_bytes(a.k_cache.dtype, keys * a.size) + dtype_bytes(a.q.dtype, elements) +
              dtype_bytes(a.y.dtype, elements) + parts * (4 * int64_t{a.size} + 8) + warps * 4 * (a.tile_tokens + 1),
          4 * sizes.keys * elements};
}

int64_t scratch_attention(const Device &device, const Node &node) {
  const auto &attributes = node.as<moe_attention>();
  const int64_t width = node.input[0].width(), size = width / attributes.heads, page = node.input[7].dim[1];
  if (size > decode_largest_size)
    throw Error(MOE_UNSUPPORTED, "attention", "heads of at most " + std::to_string(decode_largest_size) + " elements",
                std::to_string(size));
  if (attributes.heads > 65535)
    throw Error(MOE_UNSUPPORTED, "attention", "at most 65535 heads", std::to_string(attributes.heads));
  if (node.input[7].dtype == MOE_I8) throw Error(MOE_UNSUPPORTED, "attention.kCache", "f32, f16 or bf16", "i8");
  if (page > INT32_MAX)
    throw Error(MOE_UNSUPPORTED, "attention", "pages of at most 2^31 - 1 keys", std::to_string(page));
  const Plan own = plan(device, node);
  return checked_add(checked_add(own.sum_bytes, own.state_bytes, "scratch"), own.counter_bytes, "scratch");
}

void launch_attention(const Node &node, Launcher &launcher) {
  Plan own = plan(launcher.device(), node);
  AttentionArguments &a = own.arguments;
  if (a.splits > 1) {
    a.partial_sum = a.partial_state = a.arrived = node.scratch;
    a.partial_state.offset += own.sum_bytes;
    a.arrived.offset += own.sum_bytes + own.state_bytes;
  }
  launch_attention_store(a, own.sizes, launcher);
  if (!node.output[0]) return;
  if (a.tile_tokens > 0) {
    if (tensor_core_operands(a))
      launch_attention_prefill(a, own.sizes, launcher);
    else
      launch_attention_prefill_f32(a, own.sizes, launcher);
  }
  if (decode_on_tensor_cores(a))
    launch_attention_decode_mma(a, own.sizes, launcher);
  else
    launch_attention_decode(a, own.sizes, launcher);
}

}  // namespace moe::cuda
