// accumulate: adds a statistic of this run into an f64 state: counts of ids, Σ g^p·x[r], Σ g^p·‖x[r]‖ or Σ
// g^p·a[r]ᵀ·b[r], over all rows or over the rows of each slot.
//
// Layout: a, b f32 [R, W]; state f64 [S, …], dense. Tasks split the state, never the rows, so results do not hang on
// threads.
// gram: a task makes one gram_tile × gram_tile tile of one slot's state. Per gram_rows rows it copies the tile's
// columns of a (times g^p) and of b into two panels [gram_rows][gram_tile], multiplies them on register tiles of
// gram_high × 2 vectors into f32 sums, and after 2·gram_rows rows adds the sums to the state. Where b is a, tiles below
// the diagonal are mirrored.
// Bound: gram 2·R·Wa·Wb operations (half of it where b is a), the others one read of x.
// Reached: 56 % of the f32 peak for a Gram matrix of 4096 × 768 (half of the product is computed) (AVX-512, 2 Cascade
// Lake cores, 2026-11-22; docs/performance.md).

namespace moe::cpu::MOE_ISA {

inline constexpr int gram_high = registers >= 32 ? 12 : 6, gram_wide = 2 * width;
static_assert(gram_tile % gram_high == 0 && gram_tile % gram_wide == 0);

// The rows of one part of the state, and their weights.
struct Rows {
  const Context &c;
  int64_t rows, slots;
  const int32_t *offsets;
  const float *gates;
  int32_t power;

  explicit Rows(const Context &context) : c(context) {
    rows = c.input[0].rows;
    slots = c.input[2] ? c.input[2].size() - 1 : 1;
    offsets = c.input[2].as<const int32_t>();
    power = c.attribute<moe_accumulate>().gate_power;
    gates = power > 0 ? c.input[3].as<const float>() : nullptr;
  }
  int64_t begin(int64_t slot) const {
    return offsets == nullptr ? 0 : larger<int64_t>(0, smaller<int64_t>(offsets[slot], rows));
  }
  int64_t end(int64_t slot) const {
    return offsets == nullptr ? rows : larger(begin(slot), smaller<int64_t>(offsets[slot + 1], rows));
  }
  float weight(int64_t r) const { return gates == nullptr ? 1.0f : power == 1 ? gates[r] : gates[r] * gates[r]; }
};

inline void count_ids(const Context &c) {
  const int32_t *ids = c.input[0].as<const int32_t>();
  double *state = c.input[4].as<double>();
  for (int64_t i = 0; i < c.input[0].size(); ++i)
    if (ids[i] >= 0 && ids[i] < c.input[4].size()) state[ids[i]] += 1;
}

inline void sum_rows(const Context &c) {
  const Rows part(c);
  const Operand &x = c.input[0];
  constexpr int64_t run = 128;
  const int64_t runs = (x.width + run - 1) / run;
  c.parallel_for(part.slots * runs, x.size() * 2, [&](int64_t task, int) {
    const int64_t slot = task / runs, start = task % runs * run, columns = smaller(run, x.width - start);
    double sums[run] = {};
    for (int64_t r = part.begin(slot); r < part.end(slot); ++r) {
      const float *row = x.as<const float>() + r * x.width + start;
      const double weight = static_cast<double>(part.weight(r));
      for (int64_t k = 0; k < columns; ++k) sums[k] += weight * static_cast<double>(row[k]);
    }
    double *state = c.input[4].as<double>() + slot * x.width + start;
    for (int64_t k = 0; k < columns; ++k) state[k] += sums[k];
  });
}

inline void sum_norms(const Context &c) {
  const Rows part(c);
  const Operand &x = c.input[0];
  double *norms = reinterpret_cast<double *>(c.scratch);
  constexpr int64_t run = 32;
  c.parallel_for((x.rows + run - 1) / run, x.size() * 2, [&](int64_t task, int) {
    for (int64_t r = task * run; r < smaller((task + 1) * run, x.rows); ++r) {
      const float *row = x.as<const float>() + r * x.width;
      double squares[8] = {};
      int64_t k = 0;
      for (; k + 8 <= x.width; k += 8)
        for (int i = 0; i < 8; ++i) squares[i] += static_cast<double>(row[k + i]) * static_cast<double>(row[k + i]);
      for (int i = 0; k < x.width; ++k, ++i) squares[i] += static_cast<double>(row[k]) * static_cast<double>(row[k]);
      for (int i = 4; i > 0; i /= 2)
        for (int j = 0; j < i; ++j) squares[j] += squares[i + j];
      norms[r] = __builtin_sqrt(squares[0]);
    }
  });
  for (int64_t slot = 0; slot < part.slots; ++slot) {
    double sum = 0;
    for (int64_t r = part.begin(slot); r < part.end(slot); ++r) sum += static_cast<double>(part.weight(r)) * norms[r];
    c.input[4].as<double>()[slot] += sum;
  }
}

// Columns start … start + columns of rows [from, to), times weight(r) where `weighted`; zeros up to a multiple of
// `multiple`.
template <bool weighted>
inline void fill_panel(const Rows &part, const Operand &x, int64_t start, int64_t columns, int64_t from, int64_t to,
                       int multiple, float *panel) {
  const int64_t padded = (columns + multiple - 1) / multiple * multiple;
  for (int64_t r = from; r < to; ++r, panel += gram_tile) {
    const float *row = x.as<const float>() + r * x.width + start;
    const Vec weight = broadcast(weighted ? part.weight(r) : 1.0f);
    int64_t k = 0;
    for (; k < columns; k += width) {
      const Vec v = load_some(row + k, columns - k);
      store(panel + k, weighted ? mul(weight, v) : v);
    }
    for (; k < padded; ++k) panel[k] = 0;
  }
}

// sums[i …][j …] += Σ_r a[r][i …]·b[r][j …] for one register tile.
MOE_INLINE void gram_block(const float *a, const float *b, int64_t rows, float *sums) {
  Vec part[gram_high][2];
  for (int i = 0; i < gram_high; ++i)
    for (int n = 0; n < 2; ++n) part[i][n] = load(sums + i * gram_tile + n * width);
  for (int64_t r = 0; r < rows; ++r, a += gram_tile, b += gram_tile) {
    const Vec left = load(b), right = load(b + width);
    for (int i = 0; i < gram_high; ++i) {
      const Vec factor = broadcast(a[i]);
      part[i][0] = fma(factor, left, part[i][0]);
      part[i][1] = fma(factor, right, part[i][1]);
    }
  }
  for (int i = 0; i < gram_high; ++i)
    for (int n = 0; n < 2; ++n) store(sums + i * gram_tile + n * width, part[i][n]);
}

// Adds the tile of sums to the state at row `top`, column `side`; mirrored: also to its transpose, the diagonal once.
inline void add_tile(const float *sums, double *state, int64_t wide, int64_t top, int64_t high, int64_t side,
                     int64_t across, bool mirrored) {
  for (int64_t i = 0; i < high; ++i) {
    double *row = state + (top + i) * wide + side;
    for (int64_t j = mirrored && top == side ? i : 0; j < across; ++j)
      row[j] += static_cast<double>(sums[i * gram_tile + j]);
  }
  if (!mirrored) return;
  for (int64_t j = 0; j < across; ++j) {
    double *row = state + (side + j) * wide + top;
    const int64_t most = top == side ? j : high;
    for (int64_t i = 0; i < most; ++i) row[i] += static_cast<double>(sums[i * gram_tile + j]);
  }
}

inline void gram_rows_of(const Rows &part, int64_t slot, int64_t tile, int64_t other, float *scratch) {
  const Context &c = part.c;
  const bool same = !c.input[1];
  const Operand &a = c.input[0], &b = same ? a : c.input[1];
  const int64_t top = tile * gram_tile, high = smaller<int64_t>(gram_tile, a.width - top);
  const int64_t side = other * gram_tile, across = smaller<int64_t>(gram_tile, b.width - side);
  float *left = scratch, *right = left + gram_rows * gram_tile, *sums = right + gram_rows * gram_tile;
  double *state = c.input[4].as<double>() + slot * a.width * b.width;
  for (int64_t start = part.begin(slot); start < part.end(slot); start += 2 * gram_rows) {
    const int64_t stop = smaller<int64_t>(start + 2 * gram_rows, part.end(slot));
    for (int64_t i = 0; i < gram_tile * gram_tile; i += width) store(sums + i, zero());
    for (int64_t from = start; from < stop; from += gram_rows) {
      const int64_t to = smaller<int64_t>(from + gram_rows, stop);
      fill_panel<true>(part, a, top, high, from, to, gram_high, left);
      fill_panel<false>(part, b, side, across, from, to, gram_wide, right);
      for (int64_t j = 0; j < across; j += gram_wide)
        for (int64_t i = 0; i < high; i += gram_high)
          gram_block(left + i, right + j, to - from, sums + i * gram_tile + j);
    }
    add_tile(sums, state, b.width, top, high, side, across, same);
  }
}

inline void gram(const Context &c) {
  const Rows part(c);
  const bool same = !c.input[1];
  const int64_t down = (c.input[0].width + gram_tile - 1) / gram_tile;
  const int64_t across = same ? down : (c.input[1].width + gram_tile - 1) / gram_tile;
  c.parallel_for(part.slots * down * across, c.input[0].size() * (same ? c.input[0].width : c.input[1].width),
                 [&](int64_t task, int thread) {
                   const int64_t slot = task / (down * across), tile = task / across % down, other = task % across;
                   if ((same && other < tile) || c.cancelled()) return;
                   constexpr int64_t own = (2 * gram_rows + gram_tile) * gram_tile;
                   gram_rows_of(part, slot, tile, other, reinterpret_cast<float *>(c.scratch) + thread * own);
                 });
}

void accumulate(const Context &c) {
  switch (c.attribute<moe_accumulate>().statistic) {
    case MOE_COUNT:
      return count_ids(c);
    case MOE_SUM:
      return sum_rows(c);
    case MOE_NORM_SUM:
      return sum_norms(c);
    default:
      return gram(c);
  }
}

}  // namespace moe::cpu::MOE_ISA
