// score: log-probability of a given id, logit − max − log Σ exp(logit − max), and the top_k most likely ids of each
// row.
//
// Layout: logits f32 [T, V]; ids i32 [T]; top_ids i32 and top_log_probabilities f32 [T, top_k]. NaN counts as the
// lowest logit, all are clamped to ±3e38. Sums of exponentials: f32 over `score_run` logits, those sums in double.
// Bound: memory, one read of the logits (the second pass comes from cache where a row fits), and V exponentials a row.
// Reached: 40 % of the streaming read at 64 × 32768; the exponentials are the rest (AVX-512, 2 Cascade Lake cores,
// 2026-11-22; docs/performance.md).

namespace moe::cpu::MOE_ISA {

inline constexpr int64_t score_run = 1024;

MOE_INLINE Vec clean_logits(Vec v) {  // max and min give their second operand where either is NaN
  return min(max(v, broadcast(-3e38f)), broadcast(3e38f));
}
MOE_INLINE float clean_logit(float v) { return v > -3e38f ? (v < 3e38f ? v : 3e38f) : -3e38f; }

// Inserts id into the list of at most `capacity` best, largest first; equal values keep their order.
inline void offer(const float *logits, int32_t *ids, int32_t capacity, int32_t &count, int32_t id) {
  const float value = clean_logit(logits[id]);
  if (count == capacity && !(value > clean_logit(logits[ids[count - 1]]))) return;
  int32_t at = count < capacity ? count++ : count - 1;
  for (; at > 0 && value > clean_logit(logits[ids[at - 1]]); --at) ids[at] = ids[at - 1];
  ids[at] = id;
}

inline void best_ids(const float *logits, int64_t size, int32_t *ids, int32_t capacity) {
  int32_t count = 0;
  int64_t i = 0;
  for (; i < size && count < capacity; ++i) offer(logits, ids, capacity, count, static_cast<int32_t>(i));
  for (; i < size; i += width) {
    const int64_t end = smaller(i + width, size);
    const Vec least = broadcast(clean_logit(logits[ids[count - 1]]));
    if (end - i == width && !any(greater(clean_logits(load(logits + i)), least))) continue;
    for (int64_t k = i; k < end; ++k) offer(logits, ids, capacity, count, static_cast<int32_t>(k));
  }
  for (; count < capacity; ++count) ids[count] = -1;
}

inline double log_sum(const float *logits, int64_t size, float &largest) {
  Vec most = broadcast(-3e38f);
  for (int64_t i = 0; i < size; i += width) {
    const Vec v = size - i >= width ? clean_logits(load(logits + i)) : broadcast(-3e38f);
    most = max(most, v);
  }
  largest = maximum(most);
  for (int64_t i = size / width * width; i < size; ++i) largest = larger(largest, clean_logit(logits[i]));
  double total = 0;
  for (int64_t start = 0; start < size; start += score_run) {
    const int64_t end = smaller(start + score_run, size);
    Vec part = zero();
    for (int64_t i = start; i < end; i += width) {
      Vec v = sub(clean_logits(load_some(logits + i, end - i)), broadcast(largest));
      if (end - i < width) {  // lanes past the row add nothing
        alignas(64) float lanes[width];
        store(lanes, v);
        for (int64_t k = end - i; k < width; ++k) lanes[k] = -infinity;
        v = load(lanes);
      }
      part = add(part, exp(v));
    }
    total += static_cast<double>(sum(part));
  }
  return __builtin_log(total);
}

void score(const Context &c) {
  const Operand &logits = c.input[0], &ids = c.input[1], &chosen = c.output[0], &top_ids = c.output[1],
                &top = c.output[2];
  const int32_t capacity = c.attribute<moe_score>().top_k;
  c.parallel_for(logits.rows, logits.size() * 16, [&](int64_t t, int) {
    const float *row = logits.as<const float>() + t * logits.width;
    float largest = 0;
    const double total = chosen || top ? log_sum(row, logits.width, largest) : 0;
    const auto probability = [&](int64_t id) {
      if (id < 0 || id >= logits.width) return 0.0f;
      return static_cast<float>(static_cast<double>(clean_logit(row[id])) - static_cast<double>(largest) - total);
    };
    if (chosen) chosen.as<float>()[t] = probability(ids.as<const int32_t>()[t]);
    if (capacity <= 0 || !(top_ids || top)) return;
    // The list of ids is built where either output lies: both have 4-byte elements.
    int32_t *list = (top_ids ? top_ids : top).as<int32_t>() + t * capacity;
    best_ids(row, logits.width, list, capacity);
    if (!top) return;
    for (int32_t k = 0; k < capacity; ++k) top.as<float>()[t * capacity + k] = probability(list[k]);
  });
}

}  // namespace moe::cpu::MOE_ISA
