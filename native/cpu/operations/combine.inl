// combine: y[t] = residual[t] + Σ gate_of[r] · rows[r] over the distinct rows r of a token in order of their first
// choice, + sigmoid(shared_gate[t]) · shared[t]. With onto, the same terms go to the rows of a second routing.
//
// Layout: rows f32 [R, H], row_of and onto i32 [T, K], gate_of f32 [R], y f32 [T, H] ([R, H] with onto); dense,
// row-major. With onto a task takes a run of columns and all tokens in order, so that two tokens that name one row
// cannot race: the later one stays. Scratch: u8 [T, K], what a choice does.
// Bound: memory, each named row read once and y written once.
// Reached: all of the streaming read at 4096 × 8 rows of 2048 (AVX-512, 2 Cascade Lake cores, 2026-11-22;
// docs/performance.md).

namespace moe::cpu::MOE_ISA {

// The distinct rows of a token, `most` at a time.
struct TokenRows {
  static constexpr int most = 32;
  const float *row[most];
  float gate[most];
  int count = 0;
};

// Continues at choice `from` of a token; returns where to continue.
inline int64_t gather_rows(const Context &c, const int32_t *choices, int64_t from, int64_t choice_count,
                           TokenRows &list) {
  const Operand &rows = c.input[0];
  list.count = 0;
  int64_t j = from;
  for (; j < choice_count && list.count < TokenRows::most; ++j) {
    const int64_t r = choices[j];
    bool again = r < 0 || r >= rows.rows;
    for (int64_t before = 0; before < j && !again; ++before) again = choices[before] == r;
    if (again) continue;
    list.row[list.count] = rows.as<const float>() + r * rows.width;
    list.gate[list.count++] = c.input[2].as<const float>()[r];
  }
  return j;
}

inline void combine_token(const Context &c, int64_t t) {
  const Operand &row_of = c.input[1], &shared = c.input[3], &shared_gate = c.input[4], &residual = c.input[5];
  const int64_t columns = c.output[0].width, choices = row_of.width;
  float *y = c.output[0].as<float>() + t * columns;
  const float *start = residual ? residual.as<const float>() + t * columns : nullptr;
  const float *last = shared ? shared.as<const float>() + t * columns : nullptr;
  Vec factor = broadcast(1.0f);
  if (shared_gate) factor = sigmoid(broadcast(shared_gate.as<const float>()[t]));
  TokenRows list;
  int64_t next = 0;
  do {
    next = gather_rows(c, row_of.as<const int32_t>() + t * choices, next, choices, list);
    const bool done = next == choices;
    for (int64_t h = 0; h < columns; h += width) {
      const int64_t left = columns - h;
      Vec sum = start != nullptr ? load_some(start + h, left) : zero();
      for (int i = 0; i < list.count; ++i) sum = fma(broadcast(list.gate[i]), load_some(list.row[i] + h, left), sum);
      if (done && last != nullptr) sum = fma(factor, load_some(last + h, left), sum);
      store_some(y + h, sum, left);
    }
    start = y;
  } while (next < choices);
}

enum : uint8_t { choice_begins = 1, choice_adds = 2 };

// What each choice does: the first of a token that names a row of y begins it, the first that names a row of x adds it
// there.
inline void plan_onto(const Context &c, uint8_t *what) {
  const Operand &row_of = c.input[1], &onto = c.input[6];
  const int64_t choices = row_of.width;
  for (int64_t t = 0; t < row_of.rows; ++t) {
    const int32_t *from = row_of.as<const int32_t>() + t * choices, *to = onto.as<const int32_t>() + t * choices;
    for (int64_t j = 0; j < choices; ++j) {
      bool begins = true, adds = from[j] >= 0 && from[j] < c.input[0].rows;
      for (int64_t before = 0; before < j; ++before) {
        begins = begins && to[before] != to[j];
        adds = adds && from[before] != from[j];
      }
      const bool named = to[j] >= 0 && to[j] < c.output[0].rows;
      what[t * choices + j] = static_cast<uint8_t>(named ? (begins ? choice_begins : 0) | (adds ? choice_adds : 0) : 0);
    }
  }
}

inline void combine_onto(const Context &c) {
  const Operand &rows = c.input[0], &row_of = c.input[1], &onto = c.input[6], &y = c.output[0];
  uint8_t *what = reinterpret_cast<uint8_t *>(c.scratch);
  plan_onto(c, what);
  constexpr int64_t run = 256;
  c.parallel_for((y.width + run - 1) / run, row_of.size() * y.width * 2, [&](int64_t task, int) {
    const int64_t start = task * run, end = smaller(start + run, y.width);
    for (int64_t i = 0; i < row_of.size(); ++i) {
      if (what[i] == 0) continue;
      const bool begins = (what[i] & choice_begins) != 0, adds = (what[i] & choice_adds) != 0;
      const int64_t r = adds ? row_of.as<const int32_t>()[i] : 0;
      const float *from = rows.as<const float>() + r * rows.width;
      float *to = y.as<float>() + onto.as<const int32_t>()[i] * y.width;
      const Vec gate = broadcast(adds ? c.input[2].as<const float>()[r] : 0.0f);
      for (int64_t h = start; h < end; h += width) {
        Vec sum = begins ? zero() : load_some(to + h, end - h);
        if (adds) sum = fma(gate, load_some(from + h, end - h), sum);
        store_some(to + h, sum, end - h);
      }
    }
  });
}

void combine(const Context &c) {
  if (c.input[6]) return combine_onto(c);
  c.parallel_for(c.output[0].rows, c.output[0].size() * 2 * (c.input[1].width + 1),
                 [&](int64_t t, int) { combine_token(c, t); });
}

}  // namespace moe::cpu::MOE_ISA
