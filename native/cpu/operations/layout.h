// Where the parts of a node's scratch lie, in bytes from its start. Computed in scratch.cc, once for all instruction
// sets, from the operands at hand: sizes of a run never exceed the largest, so neither do the offsets.
#pragma once
#include <cstdint>

#include "context.h"

namespace moe::cpu {

// Per-token cosines and sines: f32 [T][2][F].
int64_t rotate_scratch(const Context &c);

// Attention works on up to `attention_rows` (token, head) pairs, against tiles of `attention_keys` keys that start at
// multiples of it in the sequence. What a row saw is kept in `padded + attention_tail` floats: the sums over its values,
// then its highest score and its total.
inline constexpr int attention_rows = 128, attention_keys = 64, attention_tail = 16;
// A context is cut into chunks of at least `attention_chunk` keys, at most `attention_chunks` of them; tasks of chunks
// leave what they saw for up to `attention_cut_tokens` tokens.
inline constexpr int attention_chunk = 512, attention_chunks = 16, attention_cut_tokens = 16;
struct AttentionBlock {
  int32_t first, last;      // tokens first … last − 1
  int32_t pieces, partial;  // pieces and (token, piece) pairs of the blocks before
};
struct AttentionScratch {
  int64_t blocks;    // AttentionBlock [T + 1]
  int64_t zeros;     // as wide as a place of a cache: what a key outside the cache reads as
  int64_t partials;  // f32 [partial_count][heads][kept]
  int64_t partial_count;
  int64_t threads;  // start of thread 0
  int64_t stride;   // from one thread to the next; within: scores, chunk, kept, queries, keys, values, steps
  int64_t padded;   // head_dim rounded up to 16 floats
  int64_t scores;   // f32 [attention_rows][attention_keys]
  int64_t chunk;    // f32 [attention_rows][padded + attention_tail]: of the chunk that is worked on
  int64_t whole;    // as chunk: of those before
  int64_t queries;  // f32 [attention_rows][padded]: copies; rows of q a power of two apart would share cache sets
  int64_t keys;     // f32 [attention_keys][padded]: a tile's keys, widened or for the same reason copied
  int64_t values;   // as keys
  int64_t steps;    // f32 [2][attention_rows][attention_keys]: of an i8 cache, a key head of the task after the other
  int64_t total;
};
AttentionScratch attention_scratch(const Context &c);

// A token as an expert that chooses sees it.
struct Candidate {
  float score;
  int32_t token;
  bool before(const Candidate &other) const {
    return score > other.score || (score == other.score && token < other.token);
  }
};
struct RouteScratch {
  int64_t exponentials;  // f64 [threads][E]
  int64_t scores;        // f32 [threads][E]; [T][E] where experts choose
  int64_t choices;       // f32 [threads][E + expert_groups]
  int64_t candidates;    // Candidate [threads][T], where experts choose
  int64_t last_taken;    // Candidate [E], where experts choose
  int64_t ids;           // i32 [T][K]
  int64_t gates;         // f32 [T][K]
  int64_t rank;          // i32 [E]: place of an expert in order of (slot, id)
  int64_t counts;        // i32 [max(E, S) + 1]
  int64_t total;
};
RouteScratch route_scratch(const Context &c);

// combine with onto: u8 [T][K], what to do for a choice.
int64_t combine_scratch(const Context &c);

// convolve works on `convolve_channels` channels at once: history f32 [width − 1][channels] and weights f32
// [width][channels] a thread.
inline constexpr int convolve_channels = 256;
int64_t convolve_scratch(const Context &c);

// gram works on tiles of gram_tile × gram_tile sums, gram_rows rows at a time: two panels f32 [gram_rows][gram_tile]
// and the sums f32 [gram_tile][gram_tile] a thread. norm_sum: f64 [rows].
inline constexpr int gram_tile = 96, gram_rows = 128;
int64_t accumulate_scratch(const Context &c);

// Operations without arithmetic worth a vector are compiled once.
void route(const Context &c);
void take(const Context &c);

}  // namespace moe::cpu
