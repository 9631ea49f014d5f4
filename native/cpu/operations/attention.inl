// attention: a ragged batch of queries over a paged cache; operations.h has the formula.
//
// Layout: q, y f32 [T, heads·D]; k, v f32 [T, kv_heads·D]; caches: attention_cache.inl; pages i32 [sequences·P].
// A task takes a block of consecutive tokens of one sequence and up to `attention_rows` rows, a row being one token and
// one of the heads that share a key head. It walks the keys in tiles of `attention_keys` that begin at multiples of it
// in the sequence: all scores, then a softmax that rescales its sums where the maximum grows, then p·v. A tile for many
// rows is copied to f32 first; for few it is read where it lies. Each (row, key) score is one chain of fma over D and
// one fixed tree; each row adds its visible keys in rising order. So a row's bits depend neither on its block nor on
// other rows. Keys outside the page table or the cache read as zeros; rows never touch the values of keys that they may
// not see.
// Bound: prefill, 4·D operations a visible (query, key) pair; decode, one read of the keys and values in the cache.
// Reached: 55 % of the f32 peak at 512 queries over 2048 keys, 8 heads over one (50 % each over its own); one query over
// 2048 keys of 16 heads reads 30 GB/s of an f32 cache, 18 to 29 of bf16, 23 of i8, where streaming gives 37 to 54
// (AVX-512, 2 Zen 5 cores, 2026-11-29; docs/performance.md).

namespace moe::cpu::MOE_ISA {

// Rows whose products with 4 keys are held in registers together.
inline constexpr int row_block = registers >= 32 ? 4 : 2;
// From so many rows on, a tile is copied to f32 before it is read again and again.
inline constexpr int rows_worth_a_copy = 9;
// While a tile is worked on, the next one is asked for into the second-level cache, so many keys at a time: its keys
// between scores, its values between products with the values.
inline constexpr int ask_keys = 8;

// What a task works on. `key` and `value` point at the tile's rows, of the `dtype` that the functions below name.
struct AttentionTask {
  const float *query[attention_rows];
  int64_t first[attention_rows], end[attention_rows];  // keys that a row sees
  float maximum[attention_rows], total[attention_rows];
  const void *key[attention_keys], *value[attention_keys];
  const std::byte *next[2][attention_keys];  // keys and values of the next tile, where they lie in the caches
  int64_t next_bytes;                        // of such a row
  bool quantized;
  alignas(64) float step[2][attention_keys], next_step[2][attention_keys];  // of the rows, where they are codes
  float *scores, *sums;                                                     // [rows][attention_keys], [rows][padded]
  int64_t head_dim, padded;

  // Asks memory for rows j … j + ask_keys of the next tile: the hardware's own prefetch does not follow from one key head
  // to the same head of the next position.
  MOE_INLINE void ask(int which, int j) const {
    for (int i = j; i < smaller(j + ask_keys, attention_keys); ++i)
      for (int64_t b = 0; b < next_bytes; b += 64) __builtin_prefetch(next[which][i] + b, 0, 2);
  }

  // Whether row r sees a key of the tile that begins at key `base`.
  bool sees(int r, int64_t base) const {
    return first[r] < base + attention_keys && end[r] > base && first[r] < end[r];
  }
};

// Rows r … r + M against keys j … j + 4·N of the tile.
template <int dtype, int M, int N>
MOE_INLINE void score_block(const AttentionTask &task, int r, int j) {
  Vec part[M][4 * N];
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < 4 * N; ++n) part[m][n] = zero();
  int64_t d = 0;
  for (; d + width <= task.head_dim; d += width) {
    Vec q[M];
    for (int m = 0; m < M; ++m) q[m] = load(task.query[r + m] + d);
    for (int n = 0; n < 4 * N; ++n) {
      const Vec k = load_cached(task.key[j + n], dtype, d, width);
      for (int m = 0; m < M; ++m) part[m][n] = fma(q[m], k, part[m][n]);
    }
  }
  if (const int64_t left = task.head_dim - d; left > 0) {
    for (int n = 0; n < 4 * N; ++n) {
      const Vec k = load_cached(task.key[j + n], dtype, d, left);
      for (int m = 0; m < M; ++m) part[m][n] = fma(load_part(task.query[r + m] + d, left), k, part[m][n]);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < 4 * N; n += 4)
      store_sums(task.scores + (r + m) * attention_keys + j + n, part[m][n], part[m][n + 1], part[m][n + 2],
                 part[m][n + 3]);
}

// sums[r + m][d …] += Σ_{from ≤ j < to} p[r + m][j] · value[j][d …], C vectors from d on.
template <int dtype, int M, int C>
MOE_INLINE void value_block(const AttentionTask &task, int r, int64_t d, int64_t left, int from, int to) {
  Vec part[M][C];
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < C; ++n) part[m][n] = load(task.sums + (r + m) * task.padded + d + n * width);
  for (int j = from; j < to; ++j) {
    Vec v[C];
    const std::byte *const row = static_cast<const std::byte *>(task.value[j]) + d * (dtype == MOE_I8    ? 1
                                                                                      : dtype == MOE_F32 ? 4
                                                                                                         : 2);
    for (int n = 0; n < C; ++n) v[n] = load_cached(row, dtype, n * width, C > 1 ? width : left);
    for (int m = 0; m < M; ++m) {
      const Vec p = broadcast(task.scores[(r + m) * attention_keys + j]);
      for (int n = 0; n < C; ++n) part[m][n] = fma(p, v[n], part[m][n]);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < C; ++n) store(task.sums + (r + m) * task.padded + d + n * width, part[m][n]);
}

template <int dtype, int M>
inline void add_values(const AttentionTask &task, int r, int from, int to) {
  if (from >= to) return;
  constexpr int columns = M == 1 ? 8 : 4;
  int64_t d = 0;
  for (; d + columns * width <= task.head_dim; d += columns * width)
    value_block<dtype, M, columns>(task, r, d, width, from, to);
  for (; d < task.head_dim; d += width) value_block<dtype, M, 1>(task, r, d, task.head_dim - d, from, to);
}

// Scores of row r in the tile that begins at key `base` become exp(score − maximum), times the step of a value that is
// codes; the row's sums are rescaled where the maximum grew.
inline void soften(const moe_attention &a, AttentionTask &task, int r, int64_t base) {
  float *scores = task.scores + r * attention_keys;
  alignas(64) float index[width];
  for (int i = 0; i < width; ++i) index[i] = static_cast<float>(i);
  const float first = static_cast<float>(larger<int64_t>(task.first[r] - base, 0));
  const float end = static_cast<float>(smaller<int64_t>(task.end[r] - base, attention_keys));
  const bool whole = first == 0 && end == attention_keys;
  const Vec scale = broadcast(a.scale), cap = broadcast(a.soft_cap), lowest = broadcast(-infinity);
  Vec most = lowest;
  for (int j = 0; j < attention_keys; j += width) {
    Vec s = mul(load(scores + j), task.quantized ? mul(scale, load(task.step[0] + j)) : scale);
    if (a.soft_cap > 0) s = mul(cap, tanh(div(s, cap)));
    if (!whole) {
      const Vec at = add(load(index), broadcast(static_cast<float>(j)));
      s = select(greater(broadcast(first), at), lowest, select(greater(broadcast(end), at), s, lowest));
    }
    store(scores + j, s);
    most = max(most, s);
  }
  const float before = task.maximum[r], after = larger(before, maximum(most));
  Vec added = zero();
  for (int j = 0; j < attention_keys; j += width) {
    const Vec p = exp(sub(load(scores + j), broadcast(after)));
    store(scores + j, task.quantized ? mul(p, load(task.step[1] + j)) : p);
    added = add(added, p);
  }
  if (after != before) {
    alignas(64) float factor[width];
    store(factor, exp(broadcast(before - after)));
    task.total[r] *= factor[0];
    for (int64_t d = 0; d < task.padded; d += width) {
      float *sums = task.sums + r * task.padded + d;
      store(sums, mul(load(sums), broadcast(factor[0])));
    }
    task.maximum[r] = after;
  }
  task.total[r] += sum(added);
}

// Keys [from, to) of a tile for rows r … r + M: those that all of them see together, the others row by row, in rising
// order.
template <int dtype, int M>
inline void weigh(const AttentionTask &task, int r, int64_t base) {
  int64_t from = 0, to = attention_keys;
  for (int m = 0; m < M; ++m) {
    from = larger(from, task.first[r + m] - base);
    to = smaller(to, task.end[r + m] - base);
  }
  from = smaller<int64_t>(from, attention_keys);
  to = larger(from, to);
  for (int m = 0; m < M && M > 1; ++m) {
    const int64_t start = larger<int64_t>(task.first[r + m] - base, 0), end = smaller(task.end[r + m] - base, from);
    add_values<dtype, 1>(task, r + m, static_cast<int>(start), static_cast<int>(end));
  }
  const int step = r == 0 ? ask_keys : attention_keys;
  for (int j = static_cast<int>(from); j < to; j += step) {
    if (r == 0) task.ask(1, j);
    add_values<dtype, M>(task, r, j, smaller(j + step, static_cast<int>(to)));
  }
  for (int m = 0; m < M && M > 1; ++m) {
    const int64_t start = larger(task.first[r + m] - base, to),
                  end = smaller<int64_t>(task.end[r + m] - base, attention_keys);
    add_values<dtype, 1>(task, r + m, static_cast<int>(start), static_cast<int>(end));
  }
}

// Scores of rows r … r + count against the keys of the tile that any of them sees.
template <int dtype>
inline void score_rows(const AttentionTask &task, int r, int count, int64_t base) {
  int64_t first = attention_keys, end = 0;
  for (int m = r; m < r + count; ++m) {
    if (!task.sees(m, base)) continue;
    first = smaller(first, larger<int64_t>(task.first[m] - base, 0));
    end = larger(end, smaller<int64_t>(task.end[m] - base, attention_keys));
  }
  for (int j = static_cast<int>(first) / 8 * 8; j < end; j += 8) {
    if (r == 0) task.ask(0, j);
    if (count == row_block) {
      score_block<dtype, row_block, 1>(task, r, j);
      score_block<dtype, row_block, 1>(task, r, j + 4);
    } else {
      for (int m = r; m < r + count; ++m) score_block<dtype, 1, 2>(task, m, j);
    }
  }
}

// One thing after the other for all rows, so that the keys, and then the values, stay in the nearest cache.
template <int dtype>
inline void attend_tile(const moe_attention &a, AttentionTask &task, int rows, int64_t base) {
  for (int r = 0; r < rows; r += row_block) score_rows<dtype>(task, r, smaller(row_block, rows - r), base);
  for (int r = 0; r < rows; ++r)
    if (task.sees(r, base)) soften(a, task, r, base);
  for (int r = 0; r < rows; r += row_block) {
    const int last = smaller(r + row_block, rows);
    bool all = last - r == row_block;
    for (int m = r; m < last; ++m) all = all && task.sees(m, base);
    if (all) {
      weigh<dtype, row_block>(task, r, base);
      continue;
    }
    for (int m = r; m < last; ++m)
      if (task.sees(m, base)) weigh<dtype, 1>(task, m, base);
  }
}

// Tokens first … last − 1 (one sequence), and of the query heads of key head `kv` those from `head` on.
struct Share {
  int64_t first, last, kv, head, heads;

  int rows() const { return static_cast<int>((last - first) * heads); }
};

// `dtype`: of the rows of a tile, f32 where they are copied.
template <int dtype>
inline void attend(const Attention &f, const Share &share, std::byte *scratch) {
  AttentionTask task;
  task.scores = reinterpret_cast<float *>(scratch + f.at.scores);
  task.sums = reinterpret_cast<float *>(scratch + f.at.sums);
  task.head_dim = f.head_dim;
  task.padded = f.at.padded;
  float *wide[2] = {reinterpret_cast<float *>(scratch + f.at.keys), reinterpret_cast<float *>(scratch + f.at.values)};
  float *queries = reinterpret_cast<float *>(scratch + f.at.queries);
  float *zeros = reinterpret_cast<float *>(scratch + f.at.zeros);
  for (int64_t d = 0; d < f.at.padded; d += width) store(zeros + d, zero());
  const int rows = share.rows();
  const int64_t first_column = (share.kv * (f.a.heads / f.a.kv_heads) + share.head) * f.head_dim;
  const auto token_of = [&](int r) { return share.first + r / share.heads; };
  const auto column_of = [&](int r) { return first_column + r % share.heads * f.head_dim; };  // in q and y
  int64_t from = INT64_MAX, to = 0;
  for (int r = 0; r < rows; ++r) {
    const int64_t t = token_of(r);
    const Attention::Range range = f.visible(t);
    const float *query = f.c.input[0].as<const float>() + t * f.c.input[0].width + column_of(r);
    float *copied = queries + r * f.at.padded;
    for (int64_t d = 0; d < f.head_dim; d += width) store(copied + d, load_some(query + d, f.head_dim - d));
    task.query[r] = copied;
    task.first[r] = range.first;
    task.end[r] = range.end;
    task.maximum[r] = -infinity;
    task.total[r] = 0;
    for (int64_t d = 0; d < f.at.padded; d += width) store(task.sums + r * f.at.padded + d, zero());
    if (range.first >= range.end) continue;
    from = smaller(from, range.first);
    to = larger(to, range.end);
  }
  const auto find = [&](int64_t base) {  // the rows of a tile, into task.next
    int64_t places[attention_keys];
    f.places(f.sequence[share.first], base, from, to, places);
    for (int which = 0; which < 2; ++which) {
      const Operand &cache = f.c.input[7 + which];
      const std::byte *const head = cache.as<const std::byte>() + share.kv * task.next_bytes;
      for (int j = 0; j < attention_keys; ++j) {
        task.next[which][j] =
            places[j] < 0 ? reinterpret_cast<const std::byte *>(zeros) : head + places[j] * f.cache_bytes;
        task.next_step[which][j] = 0;
        if (f.quantized && places[j] >= 0)
          __builtin_memcpy(&task.next_step[which][j], f.step_at(cache, places[j], share.kv), sizeof(float));
      }
    }
  };
  task.quantized = f.quantized;
  task.next_bytes = f.head_dim * f.cache_bytes;
  const int64_t start = from / attention_keys * attention_keys;
  if (start < to) find(start);
  for (int64_t base = start; base < to; base += attention_keys) {
    for (int which = 0; which < 2; ++which) {
      for (int j = 0; j < attention_keys; ++j) {
        const void *&row = which == 0 ? task.key[j] : task.value[j];
        row = task.next[which][j];
        task.step[which][j] = task.next_step[which][j];
        if (row == zeros || rows < rows_worth_a_copy) continue;
        float *widened = wide[which] + j * f.at.padded;
        for (int64_t d = 0; d < f.head_dim; d += width)
          store(widened + d, load_cached(row, f.c.input[7].dtype, d, f.head_dim - d));
        row = widened;
      }
    }
    if (base + attention_keys < to) find(base + attention_keys);
    attend_tile<dtype>(f.a, task, rows, base);
  }
  for (int r = 0; r < rows; ++r) {
    float *y = f.c.output[0].as<float>() + token_of(r) * f.c.output[0].width + column_of(r);
    const bool seen = task.first[r] < task.end[r];
    const Vec total = broadcast(task.total[r]);
    for (int64_t d = 0; d < f.head_dim; d += width) {
      const Vec v = load(task.sums + r * task.padded + d);
      store_some(y + d, seen ? div(v, total) : zero(), f.head_dim - d);
    }
  }
}

void attention(const Context &c) {
  const Attention f(c);
  if (f.tokens == 0) return;
  append(f);
  if (!c.output[0]) return;
  // Parts: how many tasks share the heads of a key head, so that they fit the rows of a task and keep every thread
  // busy.
  const int64_t group = f.a.heads / f.a.kv_heads;
  int64_t parts = (group + attention_rows - 1) / attention_rows;
  int64_t most_rows = attention_rows;
  while (most_rows > 32 && f.tokens * group * f.a.kv_heads < 4 * c.threads * most_rows) most_rows /= 2;
  const int64_t most_tokens = larger<int64_t>(1, most_rows / ((group + parts - 1) / parts));
  int32_t *blocks = reinterpret_cast<int32_t *>(c.scratch + f.at.blocks);
  int64_t count = 0, pairs = 0;
  for (int64_t t = 0; t < f.tokens; ++t) {
    if (t == 0 || f.sequence[t] != f.sequence[t - 1] || t - blocks[count - 1] == most_tokens)
      blocks[count++] = static_cast<int32_t>(t);
    const Attention::Range range = f.visible(t);
    pairs += range.end - range.first;
  }
  blocks[count] = static_cast<int32_t>(f.tokens);
  while (parts < group && count * f.a.kv_heads * parts < 2 * c.threads) ++parts;
  const int64_t heads = (group + parts - 1) / parts;
  c.parallel_for(count * f.a.kv_heads * parts, pairs * 4 * c.input[0].width, [&](int64_t task, int thread) {
    if (c.cancelled()) return;
    const int64_t part = task % parts, kv = task / parts % f.a.kv_heads,
                  block = count - 1 - task / parts / f.a.kv_heads;
    if (part * heads >= group) return;
    const Share share{blocks[block], blocks[block + 1], kv, part * heads, smaller(heads, group - part * heads)};
    std::byte *scratch = c.scratch + f.at.threads + thread * f.at.stride;
    switch (share.rows() >= rows_worth_a_copy ? MOE_F32 : c.input[7].dtype) {
      case MOE_F16:
        return attend<MOE_F16>(f, share, scratch);
      case MOE_BF16:
        return attend<MOE_BF16>(f, share, scratch);
      case MOE_I8:
        return attend<MOE_I8>(f, share, scratch);
      default:
        return attend<MOE_F32>(f, share, scratch);
    }
  });
}

}  // namespace moe::cpu::MOE_ISA
