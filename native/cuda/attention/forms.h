// The forms of attention, and what launches them. attention.cc chooses.
#pragma once
#include "attention/arguments.h"
#include "host/launcher.h"
#include "host/node.h"

namespace moe::cuda {

// The sizes that choose a form: the largest of any run.
struct AttentionSizes {
  int64_t tokens, sequences;
  int64_t keys;  // a sequence's places in its page table
};

// Of the tile forms: rows of a tile, the largest D, and whether tensor cores take what the operands are.
inline constexpr int tile_rows = 64, tile_largest_size = 256;
inline bool tensor_core_operands(const AttentionArguments &a) {
  return a.q.dtype == a.k_cache.dtype && a.q.dtype != MOE_F32 && a.size % 8 == 0 && a.size <= tile_largest_size;
}
// Of the decode forms: the largest D, whether tensor cores compute it, whether rows are read sixteen bytes at a time, and
// the heads of a group that a block takes together.
inline constexpr int decode_largest_size = 1024;
inline bool decode_on_tensor_cores(const AttentionArguments &a) { return tensor_core_operands(a) && a.group > 2; }
inline bool decode_whole(const AttentionArguments &a) { return a.size % 8 == 0 && a.size <= 256; }
inline int decode_heads(const AttentionArguments &a) {
  if (decode_on_tensor_cores(a)) return 16;
  return a.group == 1 || !decode_whole(a) ? 1 : a.group <= 4 ? 4 : 8;
}

// Blocks of a form (tiles or tokens, chunks of heads, parts of the keys), and their work.
dim3 tile_blocks(const AttentionArguments &arguments, const AttentionSizes &sizes);
Work tile_work(const char *kernel, const AttentionArguments &arguments, const AttentionSizes &sizes);
dim3 decode_blocks(const AttentionArguments &arguments, const AttentionSizes &sizes);
Work decode_work(const char *kernel, const AttentionArguments &arguments, const AttentionSizes &sizes);

void launch_attention_store(const AttentionArguments &arguments, const AttentionSizes &sizes, Launcher &launcher);
void launch_attention_prefill(const AttentionArguments &arguments, const AttentionSizes &sizes, Launcher &launcher);
void launch_attention_prefill_f32(const AttentionArguments &arguments, const AttentionSizes &sizes, Launcher &launcher);
void launch_attention_decode_mma(const AttentionArguments &arguments, const AttentionSizes &sizes, Launcher &launcher);
void launch_attention_decode(const AttentionArguments &arguments, const AttentionSizes &sizes, Launcher &launcher);

}  // namespace moe::cuda
