// attention: a ragged batch of queries over a paged cache; operations.h has the formula.
//
// Layout: q, y f32 [T, heads·D]; k, v f32 [T, kv_heads·D]; caches: attention_cache.inl; pages i32 [sequences·P].
// A block is consecutive tokens of one sequence. A row is one token and one query head; rows that share a key head share
// what is read of it. The context is cut at multiples of a length that depends on how many keys a token sees alone. In a
// chunk a row walks tiles of `attention_keys` keys (attention_tile.inl) with a softmax that rescales its sums where the
// maximum grew; what it saw in the chunks is added in rising order, by the task that walks them all, or afterwards where
// each chunk was a task of its own. So a row's bits depend neither on its block, nor on other rows, nor on threads. Keys
// outside the page table or the cache read as zeros.
// Few rows a key head: a task takes the cache in its own order, all heads of some keys, and reads it where it lies. Many:
// a task takes one key head, and copies its tiles to f32 before they are read again and again.
// Bound: prefill, 4·D operations a visible (query, key) pair; decode, one read of the keys and values in the cache, and
// where several query heads share a key head, their f32 products before that (docs/performance.md counts them).
// Reached: one query over 2048 keys of 16 heads of 128 reads 28 GB/s of an f32 cache, where streaming gives 35, 24 of bf16
// and 15 to 22 of i8; with 8 heads over one, 76 to 101 GFLOP/s of 236; 512 queries, 143 to 158 (AVX-512, 2 Zen 4 cores,
// 2026-11-29; docs/performance.md).

namespace moe::cpu::MOE_ISA {

// From so many rows to a key head on, tiles are copied.
inline constexpr int rows_worth_a_copy = 9;
// What is walked through all heads before the next keys, and asked for ahead: in the second-level cache with room.
inline constexpr int64_t bytes_walked = 49152;

// Tokens first … last − 1 (one sequence), key heads kv … kv + kv_heads − 1, and `heads` query heads of each from `head`
// on; keys from … to − 1.
struct Share {
  int64_t first, last, kv, kv_heads, head, heads, from, to;

  int64_t group() const { return (last - first) * heads; }
};

// How the context of a token that sees keys below `end` is cut.
inline int64_t chunk_of(int64_t end) {
  int64_t keys = attention_chunk;
  while (end > keys * attention_chunks) keys *= 2;
  return keys;
}

// y of a row that saw `seen`.
inline void finish(const Attention &f, const float *seen, float *y, bool any) {
  const Vec total = broadcast(seen[f.at.padded + 1]);
  for (int64_t d = 0; d < f.head_dim; d += width)
    store_some(y + d, any ? div(load(seen + d), total) : zero(), f.head_dim - d);
}

// Writes y, or where `partial` is given, what each (token, query head) of the share saw to there.
// `dtype`: of the rows of a tile, f32 where they are copied.
template <int dtype>
inline void attend(const Attention &f, const Share &share, std::byte *scratch, float *partial) {
  const auto part = [&](int64_t at) { return reinterpret_cast<float *>(scratch + at); };
  const std::byte *const zeros = f.c.scratch + f.at.zeros;
  const int64_t padded = f.at.padded, kept = padded + attention_tail, sequence = f.sequence[share.first],
                heads = f.a.heads / f.a.kv_heads, chunk = chunk_of(f.visible(share.first).end);
  const bool copied = share.group() >= rows_worth_a_copy;
  AttentionTask task;
  task.heads = share.kv_heads;
  task.group = share.group();
  task.head_dim = f.head_dim;
  task.padded = padded;
  task.scores = part(f.at.scores);
  task.head_bytes = f.head_dim * f.cache_bytes;
  task.lines = (share.kv_heads * task.head_bytes + 63) / 64;
  task.walked = attention_keys;
  while (!copied && task.walked > key_block && task.walked * task.lines * 64 > bytes_walked) task.walked /= 2;
  task.ahead = copied ? 2 * attention_keys : task.walked;
  float *const steps[2] = {part(f.at.steps), part(f.at.steps) + attention_rows * attention_keys};
  for (int which = 0; which < 2; ++which) task.steps[which] = f.quantized ? steps[which] : nullptr;

  const int rows = static_cast<int>(task.heads * task.group);
  const auto token_of = [&](int r) { return share.first + r % task.group / share.heads; };
  const auto head_of = [&](int r) { return (share.kv + r / task.group) * heads + share.head + r % share.heads; };
  int64_t from = INT64_MAX, to = 0, sequence_end = 0;
  for (int r = 0; r < rows; ++r) {
    const int64_t t = token_of(r);
    const Attention::Range range = f.visible(t);
    const float *query = f.c.input[0].as<const float>() + t * f.c.input[0].width + head_of(r) * f.head_dim;
    float *copy = part(f.at.queries) + r * padded;
    for (int64_t d = 0; d < f.head_dim; d += width) store(copy + d, load_some(query + d, f.head_dim - d));
    task.query[r] = copy;
    task.first[r] = larger(range.first, share.from);
    task.end[r] = larger(task.first[r], smaller(range.end, share.to));
    task.seen[r] =
        partial ? partial + ((t - share.first) * f.a.heads + head_of(r)) * kept : part(f.at.chunk) + r * kept;
    forget(task.seen[r], padded);
    forget(part(f.at.whole) + r * kept, padded);
    if (task.first[r] == task.end[r]) continue;
    from = smaller(from, task.first[r]);
    to = larger(to, task.end[r]);
    sequence_end = larger(sequence_end, range.end);
  }

  const auto find = [&](int64_t base, const std::byte **places) {  // of a tile
    int64_t at[attention_keys];
    f.places(sequence, base, from, sequence_end, at);
    for (int which = 0; which < 2; ++which) {
      const std::byte *const head = f.c.input[7 + which].as<const std::byte>() + share.kv * task.head_bytes;
      for (int j = 0; j < attention_keys; ++j) *places++ = at[j] < 0 ? zeros : head + at[j] * f.cache_bytes;
      for (int j = 0; j < attention_keys && f.quantized; ++j)
        __builtin_prefetch(places[j - attention_keys] + f.step_from(share.kv), 0, 2);
    }
  };
  const auto read_steps = [&] {
    for (int which = 0; which < 2; ++which) {
      for (int j = 0; j < attention_keys; ++j) {
        const std::byte *const place = task.places[which * attention_keys + j];
        const std::byte *const step_place = place + f.step_from(share.kv);
        for (int64_t head = 0; head < task.heads; ++head) {
          float step = 0;
          if (place != zeros) __builtin_memcpy(&step, step_place + 4 * head, sizeof step);
          steps[which][head * attention_keys + j] = step;
        }
      }
    }
  };
  const auto point = [&](const std::byte **rows_of_tile, int which) {  // task.key or task.value
    for (int j = 0; j < attention_keys; ++j) {
      const std::byte *const place = task.places[which * attention_keys + j];
      rows_of_tile[j] = place;
      if (!copied) continue;
      float *const wide = part(which == 0 ? f.at.keys : f.at.values) + j * padded;
      for (int64_t d = 0; d < f.head_dim; d += width)
        store(wide + d, load_cached(place, f.c.input[7].dtype, d, f.head_dim - d));
      rows_of_tile[j] = reinterpret_cast<const std::byte *>(wide);
    }
  };
  const int64_t start = from / attention_keys * attention_keys;
  if (start < to) find(start, task.places);
  for (int64_t base = start; base < to; base += attention_keys) {
    find(base + attention_keys, task.places + 2 * attention_keys);
    if (f.quantized) read_steps();
    point(task.key, 0);
    point(task.value, 1);
    attend_tile<dtype>(f.a, task, base);
    __builtin_memcpy(task.places, task.places + 2 * attention_keys, sizeof task.places / 2);
    const int64_t next = base + attention_keys;
    if (partial || (next % chunk != 0 && next < to)) continue;
    for (int r = 0; r < rows; ++r) {
      if (const auto [begin, end] = task.seen_of(r, 0, (next - 1) / chunk * chunk, next); begin == end) continue;
      fold(part(f.at.whole) + r * kept, task.seen[r], padded);
      forget(task.seen[r], padded);
    }
  }
  for (int r = 0; r < rows && !partial; ++r) {
    float *y = f.c.output[0].as<float>() + token_of(r) * f.c.output[0].width + head_of(r) * f.head_dim;
    finish(f, part(f.at.whole) + r * kept, y, task.first[r] < task.end[r]);
  }
}

// The chunks that a block sees: first … end − 1.
struct Chunks {
  int64_t keys, first = INT64_MAX, end = 0;

  Chunks(const Attention &f, const AttentionBlock &block) : keys(chunk_of(f.visible(block.first).end)) {
    for (int64_t t = block.first; t < block.last; ++t) {
      const Attention::Range range = f.visible(t);
      if (range.first >= range.end) continue;
      first = smaller(first, range.first / keys);
      end = larger(end, (range.end + keys - 1) / keys);
    }
    first = smaller(first, end);
  }
  int64_t count() const { return larger<int64_t>(1, end - first); }
};

// The blocks of a run, the last tokens first: they see the most keys. block[count] has the totals.
struct Blocks {
  AttentionBlock *block;
  int64_t count = 0, widest = 0, pairs = 0;  // tokens of a block at most; pairs of a token and a key that it sees

  Blocks(const Attention &f, int64_t most_tokens)
      : block(reinterpret_cast<AttentionBlock *>(f.c.scratch + f.at.blocks)) {
    block[0] = {};
    for (int64_t last = f.tokens; last > 0; ++count) {
      AttentionBlock &one = block[count];
      const int64_t chunk = chunk_of(f.visible(last - 1).end);
      int64_t t = last - 1;
      while (t > 0 && last - t < most_tokens && f.sequence[t - 1] == f.sequence[t] &&
             chunk_of(f.visible(t - 1).end) == chunk)
        --t;
      one.first = static_cast<int32_t>(t);
      one.last = static_cast<int32_t>(last);
      const int64_t pieces = Chunks(f, one).count();
      block[count + 1] = {0, 0, one.pieces + static_cast<int32_t>(pieces),
                          one.partial + static_cast<int32_t>(pieces * (last - t))};
      widest = larger(widest, last - t);
      for (; last > t; --last) pairs += f.visible(last - 1).end - f.visible(last - 1).first;
    }
  }
  const AttentionBlock &totals() const { return block[count]; }
};

// y of the tokens of all blocks, of what the tasks of their chunks saw.
inline void join(const Attention &f, const Blocks &blocks) {
  const int64_t kept = f.at.padded + attention_tail;
  const float *const partials = reinterpret_cast<const float *>(f.c.scratch + f.at.partials);
  f.c.parallel_for(f.a.heads, blocks.totals().partial * f.a.heads * f.at.padded * 2, [&](int64_t head, int thread) {
    float *const whole = reinterpret_cast<float *>(f.c.scratch + f.at.threads + thread * f.at.stride + f.at.whole);
    for (int64_t b = 0; b < blocks.count; ++b) {
      const AttentionBlock &block = blocks.block[b];
      const Chunks chunks(f, block);
      const int64_t tokens = block.last - block.first;
      for (int64_t t = block.first; t < block.last; ++t) {
        const Attention::Range range = f.visible(t);
        forget(whole, f.at.padded);
        for (int64_t i = chunks.first; i < chunks.end; ++i) {
          if (larger(range.first, i * chunks.keys) >= smaller(range.end, (i + 1) * chunks.keys)) continue;
          const int64_t at = block.partial + (i - chunks.first) * tokens + t - block.first;
          fold(whole, partials + (at * f.a.heads + head) * kept, f.at.padded);
        }
        float *y = f.c.output[0].as<float>() + t * f.c.output[0].width + head * f.head_dim;
        finish(f, whole, y, range.first < range.end);
      }
    }
  });
}

void attention(const Context &c) {
  const Attention f(c);
  if (f.tokens == 0) return;
  append(f);
  if (!c.output[0]) return;
  __builtin_memset(c.scratch + f.at.zeros, 0, static_cast<size_t>(f.cache_width * f.cache_bytes));
  const int64_t group = f.a.heads / f.a.kv_heads, wanted = 2 * c.threads;
  int64_t parts = (group + attention_rows - 1) / attention_rows, most_rows = attention_rows;
  while (most_rows > 32 && f.tokens * group * f.a.kv_heads < 2 * wanted * most_rows) most_rows /= 2;
  const Blocks blocks(f, larger<int64_t>(1, most_rows / ((group + parts - 1) / parts)));
  // Key heads of a task; then the cut, fewer key heads and parts of the query heads, until every thread is busy.
  int64_t kv_heads = blocks.widest * group < rows_worth_a_copy
                         ? smaller<int64_t>(f.a.kv_heads, attention_rows / (blocks.widest * group))
                         : 1;
  const auto runs = [&] { return (f.a.kv_heads + kv_heads - 1) / kv_heads; };
  const bool cut = c.threads > 1 && blocks.count * runs() < 2 * wanted && blocks.totals().partial <= f.at.partial_count;
  const int64_t pieces = cut ? blocks.totals().pieces : blocks.count;
  while (kv_heads > 1 && pieces * runs() < wanted) kv_heads /= 2;
  while (parts < group && pieces * runs() * parts < wanted) ++parts;
  const int64_t heads = (group + parts - 1) / parts;
  c.parallel_for(pieces * runs() * parts, blocks.pairs * 4 * c.input[0].width, [&](int64_t task, int thread) {
    if (c.cancelled()) return;
    const int64_t head = task % parts * heads, kv = task / parts % runs() * kv_heads, piece = task / parts / runs();
    if (head >= group) return;
    int64_t b = piece;
    if (cut)
      for (b = 0; blocks.block[b + 1].pieces <= piece;) ++b;
    const AttentionBlock &block = blocks.block[b];
    Share share{block.first, block.last, kv, smaller(kv_heads, f.a.kv_heads - kv), head, smaller(heads, group - head),
                0,           INT64_MAX};
    float *partial = nullptr;
    if (cut) {
      const Chunks chunks(f, block);
      const int64_t at = piece - block.pieces;
      share.from = (chunks.first + at) * chunks.keys;
      share.to = share.from + chunks.keys;
      partial = reinterpret_cast<float *>(c.scratch + f.at.partials) +
                (block.partial + at * (block.last - block.first)) * f.a.heads * (f.at.padded + attention_tail);
    }
    std::byte *const scratch = c.scratch + f.at.threads + thread * f.at.stride;
    switch (share.group() >= rows_worth_a_copy ? MOE_F32 : c.input[7].dtype) {
      case MOE_F16:
        return attend<MOE_F16>(f, share, scratch, partial);
      case MOE_BF16:
        return attend<MOE_BF16>(f, share, scratch, partial);
      case MOE_I8:
        return attend<MOE_I8>(f, share, scratch, partial);
      default:
        return attend<MOE_F32>(f, share, scratch, partial);
    }
  });
  if (cut) join(f, blocks);
}

}  // namespace moe::cpu::MOE_ISA
