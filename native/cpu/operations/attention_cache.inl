// The paged cache of attention: which keys a token sees, where they lie, and how new ones are stored.
//
// Layout: [pages, page_size, kv_heads·D] in f32, f16 or bf16, or i8 [pages, page_size, kv_heads·(D + 4)]: the codes of all
// heads of a place, then their f32 steps (operations.h).

namespace moe::cpu::MOE_ISA {

struct Attention {
  const Context &c;
  const moe_attention &a;
  AttentionScratch at;
  int64_t tokens, head_dim, sequences, table, pages, page_size, cache_width, cache_bytes;
  bool quantized;
  const int32_t *positions, *sequence, *lengths, *page_of;

  explicit Attention(const Context &context)
      : c(context), a(context.attribute<moe_attention>()), at(attention_scratch(context)) {
    tokens = c.input[0].rows;
    head_dim = c.input[0].width / a.heads;
    positions = c.input[3].as<const int32_t>();
    sequence = c.input[4].as<const int32_t>();
    lengths = c.input[5].as<const int32_t>();
    page_of = c.input[6].as<const int32_t>();
    sequences = c.input[5].size();
    table = sequences > 0 ? c.input[6].size() / sequences : 0;
    pages = c.input[7].dim[0];
    page_size = c.input[7].dim[1];
    cache_width = c.input[7].dim[2];
    quantized = c.input[7].dtype == MOE_I8;
    cache_bytes = quantized ? 1 : c.input[7].dtype == MOE_F32 ? 4 : 2;
  }

  // Element offset of a place of sequence s in a cache, or −1 where the tables say no such place.
  int64_t place(int64_t s, int64_t page_index, int64_t within) const {
    if (s < 0 || s >= sequences || page_index >= table) return -1;
    const int64_t page = page_of[s * table + page_index];
    return page >= 0 && page < pages ? (page * page_size + within) * cache_width : -1;
  }
  int64_t place(int64_t s, int64_t p) const {
    return p < 0 || page_size <= 0 ? -1 : place(s, p / page_size, p % page_size);
  }
  // From the first code of key head `kv` to its step, in a place of an i8 cache.
  int64_t step_from(int64_t kv) const { return (a.kv_heads - kv) * head_dim + 4 * kv; }
  // Those of the keys of a tile, −1 for keys that are not from ≤ key < to.
  void places(int64_t s, int64_t base, int64_t from, int64_t to, int64_t *at) const {
    const bool some = page_size > 0;
    int64_t page_index = some ? base / page_size : 0, within = some ? base % page_size : 0;
    for (int64_t key = base; key < base + attention_keys; ++key) {
      *at++ = some && key >= from && key < to ? place(s, page_index, within) : -1;
      if (++within < page_size) continue;
      within = 0;
      ++page_index;
    }
  }

  // The keys a token sees: first ≤ j < end.
  struct Range {
    int64_t first, end;
  };
  Range visible(int64_t t) const {
    const int64_t s = sequence[t], p = positions[t];
    if (s < 0 || s >= sequences) return {0, 0};
    int64_t end = smaller<int64_t>(lengths[s], table * page_size);
    if (a.causal) end = smaller(end, p + 1);
    const int64_t start = a.window > 0 ? larger<int64_t>(0, p - a.window + 1) : 0;
    return {start, larger(start, end)};
  }
};

// The codes of a head, and its step at `at`.
inline void quantize_head(const float *x, int64_t count, int8_t *codes, std::byte *at) {
  Vec most = zero();
  bool bad = false;
  for (int64_t d = 0; d < count; d += width) {
    const Vec v = load_some(x + d, count - d);
    most = max(abs(v), most);
    bad = bad || any(not_equal(v, v));
  }
  const float largest = maximum(most);
  const float step = bad || largest == infinity ? __builtin_nanf("") : largest / 127.0f;
  for (int64_t d = 0; d < count; d += width) {
    alignas(64) int8_t piece[width] = {};
    if (step > 0)
      store_bytes(piece, to_ints(max(broadcast(-127.0f),
                                     min(broadcast(127.0f), div(load_some(x + d, count - d), broadcast(step))))));
    __builtin_memcpy(codes + d, piece, static_cast<size_t>(smaller<int64_t>(width, count - d)));
  }
  __builtin_memcpy(at, &step, sizeof step);
}

// As load_any, of a cache; codes are widened, their step is left to the caller.
MOE_INLINE Vec load_cached(const void *row, int32_t dtype, int64_t at, int64_t left) {
  if (dtype != MOE_I8) return load_any(row, dtype, at, left);
  const int8_t *p = static_cast<const int8_t *>(row) + at;
  if (left >= width) return to_float(load_int8s(p));
  int8_t part[width] = {};
  __builtin_memcpy(part, p, static_cast<size_t>(left));
  return to_float(load_int8s(part));
}

// A task stores one key head's slice of one cache, all tokens in order: two tokens at one place leave the later one.
inline void append(const Attention &f) {
  const int64_t slices = 2 * f.a.kv_heads;
  f.c.parallel_for(slices, f.tokens * f.cache_width * 4, [&](int64_t task, int) {
    const int64_t which = task % 2, column = task / 2 * f.head_dim;
    const Operand &from = f.c.input[1 + which], &cache = f.c.input[7 + which];
    for (int64_t t = 0; t < f.tokens; ++t) {
      const int64_t to = f.place(f.sequence[t], f.positions[t]);
      if (to < 0) continue;
      const float *row = from.as<const float>() + t * from.width + column;
      if (f.quantized) {
        int8_t *const codes = cache.as<int8_t>() + to + column;
        quantize_head(row, f.head_dim, codes, reinterpret_cast<std::byte *>(codes) + f.step_from(task / 2));
        continue;
      }
      for (int64_t d = 0; d < f.head_dim; d += width)
        store_any(cache.data, cache.dtype, to + column + d, load_some(row + d, f.head_dim - d), f.head_dim - d);
    }
  });
}

}  // namespace moe::cpu::MOE_ISA
