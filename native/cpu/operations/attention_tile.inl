// A tile of keys in attention: scores, softmax, products with the values; attention.inl says which tiles and rows.
//
// Each (row, key) score is one chain of fma over D and one fixed tree; each row adds its visible keys in rising order. So
// a row's bits depend neither on the rows beside it nor on how the keys are walked. Rows never touch the values of keys
// that they may not see.

namespace moe::cpu::MOE_ISA {

// Rows whose products with 4 keys are held in registers together.
inline constexpr int row_block = registers >= 32 ? 4 : 2;
// Keys that a block of rows meets at once.
inline constexpr int key_block = 8;

// What a task works on: `heads` key heads, each with the `group` rows that share it, one head after the other. `key` and
// `value` point at the tile's rows, of the `dtype` that the functions below name.
struct AttentionTask {
  int64_t heads, group;
  const float *query[attention_rows];
  int64_t first[attention_rows], end[attention_rows];  // keys that a row sees
  float *seen[attention_rows];                         // what a row saw in this chunk: sums, highest score, total
  const std::byte *key[attention_keys], *value[attention_keys];  // at the task's first key head
  int64_t head_bytes;                                            // from one key head to the next
  const float *steps[2];                                         // [heads][attention_keys], null where nothing is codes
  float *scores;                                                 // [rows][attention_keys]
  int64_t head_dim, padded;
  bool all_seen;  // every row sees every key of the tile

  // Where the keys and values of this tile and of the next lie in the caches, in the order in which they are read;
  // lines of all heads there; how many keys are walked through all heads before the next; and how many keys ahead of them
  // memory is asked.
  const std::byte *places[4 * attention_keys];
  int64_t lines, walked, ahead;

  // Keys from … to − 1 of the tile at `base` that row r sees.
  struct Range {
    int64_t from, to;
  };
  MOE_INLINE Range seen_of(int r, int64_t base, int64_t from, int64_t to) const {
    from = larger(from, first[r] - base);
    return {from, larger(from, smaller(to, end[r] - base))};
  }
};

// Rows r … r + M against keys j … j + 4·N of the tile, `offset` bytes from where these are said to lie.
template <int dtype, int M, int N>
MOE_INLINE void score_block(const AttentionTask &task, int r, int j, int64_t offset) {
  Vec part[M][4 * N];
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < 4 * N; ++n) part[m][n] = zero();
  int64_t d = 0;
  for (; d + width <= task.head_dim; d += width) {
    Vec q[M];
    for (int m = 0; m < M; ++m) q[m] = load(task.query[r + m] + d);
    for (int n = 0; n < 4 * N; ++n) {
      const Vec k = load_cached(task.key[j + n] + offset, dtype, d, width);
      for (int m = 0; m < M; ++m) part[m][n] = fma(q[m], k, part[m][n]);
    }
  }
  if (const int64_t left = task.head_dim - d; left > 0) {
    for (int n = 0; n < 4 * N; ++n) {
      const Vec k = load_cached(task.key[j + n] + offset, dtype, d, left);
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
MOE_INLINE void value_block(const AttentionTask &task, int r, int64_t offset, int64_t d, int64_t left, int64_t from,
                            int64_t to) {
  Vec part[M][C];
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < C; ++n) part[m][n] = load(task.seen[r + m] + d + n * width);
  for (int64_t j = from; j < to; ++j) {
    Vec v[C];
    for (int n = 0; n < C; ++n) v[n] = load_cached(task.value[j] + offset, dtype, d + n * width, C > 1 ? width : left);
    for (int m = 0; m < M; ++m) {
      const Vec p = broadcast(task.scores[(r + m) * attention_keys + j]);
      for (int n = 0; n < C; ++n) part[m][n] = fma(p, v[n], part[m][n]);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < C; ++n) store(task.seen[r + m] + d + n * width, part[m][n]);
}

template <int dtype, int M>
inline void add_values(const AttentionTask &task, int r, int64_t offset, int64_t from, int64_t to) {
  if (from >= to) return;
  constexpr int columns = M == 1 ? 8 : 4;
  int64_t d = 0;
  for (; d + columns * width <= task.head_dim; d += columns * width)
    value_block<dtype, M, columns>(task, r, offset, d, width, from, to);
  for (; d < task.head_dim; d += width) value_block<dtype, M, 1>(task, r, offset, d, task.head_dim - d, from, to);
}

// Scores of row r in the tile that begins at key `base` become exp(score − highest), times the step of a value that is
// codes; what the row saw is rescaled where the highest score grew.
inline void soften(const moe_attention &a, const AttentionTask &task, int r, int64_t base) {
  float *scores = task.scores + r * attention_keys, *seen = task.seen[r], *highest = seen + task.padded;
  const float *steps[2] = {};
  for (int which = 0; which < 2; ++which)
    if (task.steps[which]) steps[which] = task.steps[which] + r / task.group * attention_keys;
  alignas(64) float index[width];
  for (int i = 0; i < width; ++i) index[i] = static_cast<float>(i);
  const auto [from, to] = task.seen_of(r, base, 0, attention_keys);
  const bool all = from == 0 && to == attention_keys;
  const Vec scale = broadcast(a.scale), cap = broadcast(a.soft_cap), lowest = broadcast(-infinity);
  const Vec first = broadcast(static_cast<float>(from)), end = broadcast(static_cast<float>(to));
  Vec most = lowest;
  for (int j = 0; j < attention_keys; j += width) {
    Vec s = mul(load(scores + j), steps[0] ? mul(scale, load(steps[0] + j)) : scale);
    if (a.soft_cap > 0) s = mul(cap, tanh(div(s, cap)));
    if (!all) {
      const Vec at = add(load(index), broadcast(static_cast<float>(j)));
      s = select(greater(first, at), lowest, select(greater(end, at), s, lowest));
    }
    store(scores + j, s);
    most = max(most, s);
  }
  const float before = highest[0], after = larger(before, maximum(most));
  const Vec taken = broadcast(after == -infinity ? 0 : after);
  Vec added = zero();
  for (int j = 0; j < attention_keys; j += width) {
    const Vec p = exp(sub(load(scores + j), taken));
    store(scores + j, steps[1] ? mul(p, load(steps[1] + j)) : p);
    added = add(added, p);
  }
  if (after != before) {
    alignas(64) float factor[width];
    store(factor, exp(sub(broadcast(before), taken)));
    highest[1] *= factor[0];
    for (int64_t d = 0; d < task.padded; d += width) store(seen + d, mul(load(seen + d), broadcast(factor[0])));
    highest[0] = after;
  }
  highest[1] += sum(added);
}

// Scores of rows r … r + count against key_block keys from j on, if any row sees one of them.
template <int dtype>
MOE_INLINE void score_rows(const AttentionTask &task, int r, int count, int j, int64_t base, int64_t offset) {
  bool any = task.all_seen;
  for (int m = r; m < r + count && !any; ++m) {
    const auto [from, to] = task.seen_of(m, base, j, j + key_block);
    any = from < to;
  }
  if (!any) return;
  if (count == row_block) {
    score_block<dtype, row_block, 1>(task, r, j, offset);
    score_block<dtype, row_block, 1>(task, r, j + 4, offset);
  } else {
    for (int m = r; m < r + count; ++m) score_block<dtype, 1, 2>(task, m, j, offset);
  }
}

// Values of keys j … j + keys of the tile for rows r … r + count: those of keys that all of them see together, the others
// row by row, in rising order.
template <int dtype>
MOE_INLINE void weigh_rows(const AttentionTask &task, int r, int count, int j, int keys, int64_t base, int64_t offset) {
  const bool together = count == row_block;
  if (task.all_seen && together) return add_values<dtype, row_block>(task, r, offset, j, j + keys);
  int64_t from = together ? j : j + keys, to = j + keys;
  for (int m = r; m < r + count; ++m) {
    const auto [start, end] = task.seen_of(m, base, j, j + keys);
    from = larger(from, start);
    to = smaller(to, end);
  }
  to = larger(from, to);
  for (int m = r; m < r + count; ++m) {
    const auto [start, end] = task.seen_of(m, base, j, j + keys);
    add_values<dtype, 1>(task, m, offset, start, smaller(end, from));
  }
  if (together) add_values<dtype, row_block>(task, r, offset, from, to);
  for (int m = r; m < r + count; ++m) {
    const auto [start, end] = task.seen_of(m, base, j, j + keys);
    add_values<dtype, 1>(task, m, offset, larger(start, to), end);
  }
}

// One thing after the other for all rows, so that the keys, and then the values, stay in the nearest cache.
template <int dtype>
inline void attend_tile(const moe_attention &a, AttentionTask &task, int64_t base) {
  const int rows = static_cast<int>(task.heads * task.group), walked = static_cast<int>(task.walked);
  task.all_seen = true;
  for (int r = 0; r < rows; ++r)
    task.all_seen = task.all_seen && task.first[r] <= base && task.end[r] >= base + attention_keys;
  // body(first row, rows, first key, offset) for all of them, `keys` keys at once; the keys' places are those from `at`
  // on. Meanwhile memory is asked for keys ahead, line by line as they lie: it gives runs faster than heads of keys in
  // turn.
  const int64_t blocks = task.heads * ((task.group + row_block - 1) / row_block);
  const auto walk = [&](int at, int keys, const auto &body) {
    const int64_t asked = (keys * task.lines + blocks - 1) / blocks;
    for (int from = 0; from < attention_keys; from += walked) {
      const std::byte *const *const place = task.places + at + from + task.ahead;
      int64_t key = 0, line = 0;
      for (int64_t head = 0; head < task.heads; ++head) {
        for (int j = from; j < from + walked; j += keys) {
          const int64_t end = (head + 1) * task.group;
          for (int64_t r = end - task.group; r < end; r += row_block) {
            for (int64_t left = asked; left > 0 && key < walked;) {
              const int64_t run = smaller(left, task.lines - line);
              const std::byte *const first = place[key] + line * 64;
              for (int64_t i = 0; i < run; ++i) __builtin_prefetch(first + i * 64, 0, 2);
              left -= run;
              line += run;
              if (line == task.lines) line = 0, ++key;
            }
            body(static_cast<int>(r), static_cast<int>(smaller<int64_t>(row_block, end - r)), j,
                 head * task.head_bytes);
          }
        }
      }
    }
  };
  const int scored = smaller(walked, 2 * key_block), weighed = smaller(walked, 4 * key_block);
  walk(0, scored, [&](int r, int count, int j, int64_t offset) {
    for (const int end = j + scored; j < end; j += key_block) score_rows<dtype>(task, r, count, j, base, offset);
  });
  for (int r = 0; r < rows; ++r)
    if (const auto [from, to] = task.seen_of(r, base, 0, attention_keys); from < to) soften(a, task, r, base);
  walk(attention_keys, weighed,
       [&](int r, int count, int j, int64_t offset) { weigh_rows<dtype>(task, r, count, j, weighed, base, offset); });
}

// Adds what a row saw in a chunk to what it saw in those before.
inline void fold(float *before, const float *chunk, int64_t padded) {
  const float highest = larger(before[padded], chunk[padded]);
  alignas(64) float scale[width] = {before[padded], chunk[padded]};
  store(scale, exp(sub(load(scale), broadcast(highest == -infinity ? 0 : highest))));
  const Vec old = broadcast(scale[0]), fresh = broadcast(scale[1]);
  for (int64_t d = 0; d < padded; d += width)
    store(before + d, fma(fresh, load(chunk + d), mul(old, load(before + d))));
  before[padded + 1] = before[padded + 1] * scale[0] + chunk[padded + 1] * scale[1];
  before[padded] = highest;
}

inline void forget(float *seen, int64_t padded) {
  for (int64_t d = 0; d < padded; d += width) store(seen + d, zero());
  seen[padded] = -infinity;
  seen[padded + 1] = 0;
}

}  // namespace moe::cpu::MOE_ISA
