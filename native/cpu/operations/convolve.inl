// convolve: y[t, c] = activation(Σ_i w[c, i] · x[t − (width − 1) + i, c] + bias[c]); what lies before a sequence's
// tokens in this run comes from its state, and is zeros before position 0. The state then holds the last width − 1
// inputs, oldest first. A sequence out of range gives zeros.
//
// Layout: x, y f32 [T, C]; weight f32 [C, taps]; state f32 [sequences, (taps − 1)·C]. A task takes `convolve_channels`
// channels and all tokens in order; scratch a thread: history [taps − 1][channels], then the weights as
// [taps][channels].
// Bound: memory, one read of x and one write of y.
// Reached: 36 % of the streaming read at 4096 × 2048, 4 taps (AVX-512, 2 Cascade Lake cores, 2026-11-22;
// docs/performance.md).

namespace moe::cpu::MOE_ISA {

inline void convolve_run(const Context &c, int64_t start, int64_t channels, float *history) {
  const Operand &x = c.input[0], &weight = c.input[1], &bias = c.input[2], &state = c.input[5], &y = c.output[0];
  const int32_t *sequence = c.input[3].as<const int32_t>(), *position = c.input[4].as<const int32_t>();
  const int64_t taps = weight.width, past = taps - 1;
  const bool silu_after = c.attribute<moe_convolve>().activation == MOE_SILU;
  float *weights = history + taps * convolve_channels;
  for (int64_t i = 0; i < taps; ++i)
    for (int64_t k = 0; k < channels; ++k)
      weights[i * convolve_channels + k] = weight.as<const float>()[(start + k) * taps + i];
  for (int64_t t = 0; t < x.rows; ++t) {
    const int64_t s = sequence[t];
    const bool begins = t == 0 || s != sequence[t - 1], ends = t + 1 == x.rows || s != sequence[t + 1];
    float *kept = s >= 0 && s < state.rows ? state.as<float>() + s * state.width + start : nullptr;
    if (begins || position[t] == 0)
      for (int64_t i = 0; i < past; ++i)
        for (int64_t k = 0; k < channels; k += width) {
          const bool known = kept != nullptr && position[t] != 0;
          store_some(history + i * convolve_channels + k,
                     known ? load_some(kept + i * x.width + k, channels - k) : zero(), channels - k);
        }
    const float *from = x.as<const float>() + t * x.width + start;
    float *to = y ? y.as<float>() + t * x.width + start : nullptr;
    for (int64_t k = 0; k < channels; k += width) {
      const int64_t left = channels - k;
      const Vec now = load_some(from + k, left);
      Vec sum = bias ? load_some(bias.as<const float>() + start + k, left) : zero();
      for (int64_t i = 0; i < past; ++i) {
        float *place = history + i * convolve_channels + k;
        sum = fma(load_some(weights + i * convolve_channels + k, left), load_some(place, left), sum);
        store_some(place, i + 1 < past ? load_some(place + convolve_channels, left) : now, left);
      }
      sum = fma(load_some(weights + past * convolve_channels + k, left), now, sum);
      if (to != nullptr) store_some(to + k, kept == nullptr ? zero() : silu_after ? silu(sum) : sum, left);
    }
    if (ends && kept != nullptr)
      for (int64_t i = 0; i < past; ++i)
        for (int64_t k = 0; k < channels; k += width)
          store_some(kept + i * x.width + k, load_some(history + i * convolve_channels + k, channels - k),
                     channels - k);
  }
}

void convolve(const Context &c) {
  const int64_t channels = c.input[0].width, taps = c.input[1].width;
  const int64_t tasks = (channels + convolve_channels - 1) / convolve_channels;
  c.parallel_for(tasks, c.input[0].size() * 2 * taps, [&](int64_t task, int thread) {
    const int64_t start = task * convolve_channels;
    float *own = reinterpret_cast<float *>(c.scratch) + thread * 2 * taps * convolve_channels;
    convolve_run(c, start, smaller<int64_t>(convolve_channels, channels - start), own);
  });
}

}  // namespace moe::cpu::MOE_ISA
