// convolve: a short causal convolution a channel, y[t, c] = activation(Σ_i w[c, i] · x[t − (width − 1) + i, c] + bias[c]);
// what lies before this run comes from the sequence's state, which is left at its last inputs.
//
// Layout: x, y [T, C] row-major, f32, f16 or bf16; weight [C, width]; state f32 [sequences, width − 1, C]. Tokens are
// cut into equal stretches; a thread walks one stretch for a few channels and keeps their last inputs in registers. The
// run of a sequence reads the state for its first width − 1 tokens only: the thread in whose stretch the run starts
// works on all of those, then nobody else needs the state and the same thread renews it.
// Bound: bytes. Share reached: not measured on a GPU yet.
#include <algorithm>

#include "host/launcher.h"
#include "host/node.h"
#include "kernel/activation.h"
#include "kernel/shared.h"
#include "kernel/vector.h"
#include "moe/dtype.h"

namespace moe::cuda {

struct ConvolveArguments {
  Place x, weight, bias, sequence, positions, state, y;
  int64_t channels;
  int32_t width, activation;
};

inline constexpr unsigned convolve_threads = 128;
inline constexpr int convolve_most_width = 16;

// The tokens [first, end) that a thread sees, by what the data say of each.
struct ConvolveTokens {
  const int32_t *sequence, *positions;
  int64_t count;

  __device__ __forceinline__ int32_t of(int64_t t) const { return ptx::load(sequence + t); }
  __device__ __forceinline__ bool begins(int64_t t) const { return ptx::load(positions + t) == 0; }
  __device__ __forceinline__ bool continues(int64_t t) const { return t > 0 && of(t) == of(t - 1); }
  // Tokens of t's run before t, `most` at most.
  __device__ __forceinline__ int before(int64_t t, int most) const {
    int found = 0;
    while (found < most && continues(t - found)) ++found;
    return found;
  }
  // The end of the run that starts at t: its tokens are consecutive, so halving finds it.
  __device__ __forceinline__ int64_t end_of_run(int64_t t) const {
    const int32_t own = of(t);
    int64_t inside = t, outside = count;
    for (int64_t step = 1; inside + step < outside; step *= 2) {
      if (of(inside + step) == own) {
        inside += step;
      } else {
        outside = inside + step;
      }
    }
    while (outside - inside > 1) {
      const int64_t middle = inside + (outside - inside) / 2;
      (of(middle) == own ? inside : outside) = middle;
    }
    return outside;
  }
};

// Renews the state (at its channel) after the run [first, end): its last `past` inputs, zeros for those before a token
// at position 0. Ascending places read only what is still old.
template <int count>
__device__ __forceinline__ void renew_state(const ConvolveArguments &a, const ConvolveTokens &tokens, int64_t first,
                                            int64_t end, const void *x, int64_t channel, float *state) {
  const int past = a.width - 1;
  for (int i = 0; i < past; ++i) {
    const int64_t from = end - past + i;  // token; before `first`: a place of the old state
    bool zero = false;
    for (int64_t t = from < first ? first : from + 1; t < end; ++t) zero = zero || tokens.begins(t);
    Vector<count> v = {};
    if (!zero && from >= first) v = load_vector<count>(a.x.dtype, x, from * a.channels + channel);
    if (!zero && from < first) v = load_vector<count>(MOE_F32, state, (from - first + past) * a.channels);
    store_vector(MOE_F32, state, i * a.channels, v);
  }
}

// A float is left out after every 32, so that threads whose taps are a power of two apart ask different banks.
__host__ __device__ constexpr int spaced(int index) { return index + index / 32; }
__host__ __device__ constexpr int convolve_shared_floats(int count, int width) {
  return spaced(count * static_cast<int>(convolve_threads) * width);
}
// The weights of a block's channels, in their own order: neighbouring threads load neighbours, whatever the width.
template <int count>
__device__ __forceinline__ void load_weights(const Frame *frame, const ConvolveArguments &a, int64_t first_channel,
                                             const SharedArray<float> &weights) {
  const void *const from = at<void>(frame, a.weight);
  const int64_t left = (a.channels - first_channel) * a.width, first = first_channel * a.width;
  const int all = count * static_cast<int>(convolve_threads) * a.width;
  for (int i = count * static_cast<int>(threadIdx.x); i < all && i < left;
       i += count * static_cast<int>(convolve_threads)) {
    const Vector<count> v = load_vector<count>(a.weight.dtype, from, first + i);
#pragma unroll
    for (int k = 0; k < count; ++k) weights[spaced(i + k)] = v.element[k];
  }
  __syncthreads();
}

// `taps`: the width, or where `count` is 1 at least the width.
template <int count, int taps>
__global__ void __launch_bounds__(convolve_threads, 4) convolve_kernel(const Frame *frame, ConvolveArguments a) {
  const ConvolveTokens tokens{at<int32_t>(frame, a.sequence), at<int32_t>(frame, a.positions), rows(frame, a.x)};
  const auto thread = static_cast<int>(threadIdx.x);
  const int64_t first_channel = int64_t{count} * convolve_threads * blockIdx.x,
                channel = first_channel + thread * count;
  const int64_t stretch = (tokens.count + gridDim.y - 1) / gridDim.y;
  const int64_t begin = stretch * blockIdx.y;
  const int64_t end = begin + stretch < tokens.count ? begin + stretch : tokens.count;
  if (begin >= end) return;
  const int past = a.width - 1;
  int before = tokens.before(begin, past);
  int64_t t = begin;
  while (before > 0 && before < past && t < end) {  // the first tokens of a run that starts in an earlier stretch
    ++t;
    before = t < end && tokens.continues(t) ? before + 1 : 0;
  }
  if (t >= end) return;

  SharedCutter shared;
  const SharedArray<float> weights = shared.take<float>(convolve_shared_floats(count, a.width));
  load_weights<count>(frame, a, first_channel, weights);
  if (channel >= a.channels) return;
  const void *const x = at<void>(frame, a.x);
  const void *const bias = at<void>(frame, a.bias);
  void *const y = at<void>(frame, a.y);
  const int64_t sequences = rows(frame, a.state);
  Vector<count> tap[taps], recent[taps];  // of lag taps − 1 … 0; where the width is less, lags past it are not used
#pragma unroll
  for (int i = 0; i < taps; ++i) {
    recent[i] = {};
    const int from = i - (taps - a.width);
#pragma unroll
    for (int k = 0; k < count; ++k)
      tap[i].element[k] = from >= 0 ? weights[spaced((thread * count + k) * a.width + from)] : 0.0f;
  }
  Vector<count> shift = {};
  if (bias) shift = load_vector<count>(a.bias.dtype, bias, channel);
  if (before == past) {
#pragma unroll
    for (int i = 0; i + 1 < taps; ++i) {
      const int lag = taps - 1 - i;
      if (lag > past) continue;
      bool zero = false;
      for (int back = 1; back < lag; ++back) zero = zero || tokens.begins(t - back);
      if (!zero) recent[i] = load_vector<count>(a.x.dtype, x, (t - lag) * a.channels + channel);
    }
  }
  // Past the stretch only the first tokens of a run that starts in it are left.
  for (bool starts = before == 0; t < tokens.count && (t < end || (!starts && before < past)); ++t) {
    const int64_t own = tokens.of(t);
    const bool known = own >= 0 && own < sequences;
    const Packed<count> now = load_packed<count>(a.x.dtype, x, t * a.channels + channel);
    if (starts && known) {
      float *const state = at<float>(frame, a.state) + own * past * a.channels + channel;
#pragma unroll
      for (int i = 0; i + 1 < taps; ++i)
        if (taps - 1 - i <= past) recent[i] = load_vector<count>(MOE_F32, state, (i - (taps - a.width)) * a.channels);
      renew_state<count>(a, tokens, t, tokens.end_of_run(t), x, channel, state);
    }
    if (tokens.begins(t)) {
#pragma unroll
      for (int i = 0; i + 1 < taps; ++i) recent[i] = {};
    }
    recent[taps - 1] = widen(a.x.dtype, now);
    Vector<count> sum = shift;
#pragma unroll
    for (int i = 0; i < taps; ++i) {
      if (taps - 1 - i > past) continue;
#pragma unroll
      for (int k = 0; k < count; ++k) sum.element[k] += tap[i].element[k] * recent[i].element[k];
    }
#pragma unroll
    for (int k = 0; k < count; ++k) sum.element[k] = known ? activate(a.activation, sum.element[k]) : 0.0f;
    store_vector(a.y.dtype, y, t * a.channels + channel, sum);
#pragma unroll
    for (int i = 0; i + 1 < taps; ++i) recent[i] = recent[i + 1];
    starts = t + 1 < tokens.count && !tokens.continues(t + 1);
    before = starts ? 0 : before + (before < past ? 1 : 0);
  }
}

int64_t scratch_convolve(const Device &, const Node &node) {
  if (node.input[1].width() > convolve_most_width)
    throw Error(MOE_UNSUPPORTED, "width", "at most " + std::to_string(convolve_most_width),
                std::to_string(node.input[1].width()));
  return 0;
}

void launch_convolve(const Node &node, Launcher &launcher) {
  const Operand &x = node.input[0], &weight = node.input[1], &bias = node.input[2], &state = node.input[5];
  const Operand &y = node.output[0];
  const int64_t channels = x.width(), width = weight.width();
  const ConvolveArguments arguments{
      x.place,     weight.place, bias.place, node.input[3].place,         node.input[4].place,
      state.place, y.place,      channels,   static_cast<int32_t>(width), node.as<moe_convolve>().activation};
  const auto launch = [&](auto count, auto taps) {
    const unsigned across = blocks_for(channels, int64_t{count} * convolve_threads);
    // As many stretches as fill the device.
    const int64_t most = int64_t{8} * launcher.device().multiprocessors() / across + 1;
    const int64_t stretches = std::min(most, x.rows());
    const int64_t sequences = std::min(state.rows(), x.rows());
    const int64_t bytes = dtype_bytes(x.dtype, x.elements() + stretches * (width - 1) * channels) +
                          dtype_bytes(y.dtype, y.elements()) + 8 * sequences * state.width() + 8 * x.rows() +
                          stretches * dtype_bytes(weight.dtype, weight.elements());
    launcher.run({"convolve", bytes, 2 * width * x.elements()}, convolve_kernel<count, taps>,
                 {dim3(across, static_cast<unsigned>(stretches)), convolve_threads,
                  sizeof(float) * static_cast<size_t>(convolve_shared_floats(count, static_cast<int>(width)))},
                 arguments);
  };
  using Four = std::integral_constant<int, 4>;  // elements of the state, which is f32, in sixteen bytes
  if (channels % 4 == 0 && width == 3) return launch(Four{}, std::integral_constant<int, 3>{});
  if (channels % 4 == 0 && width == 4) return launch(Four{}, std::integral_constant<int, 4>{});
  launch(std::integral_constant<int, 1>{}, std::integral_constant<int, convolve_most_width>{});
}

}  // namespace moe::cuda
