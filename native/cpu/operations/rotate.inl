// rotate: rotary positions. The pair (u, v) of a head becomes (u·cos − v·sin, v·cos + u·sin), angle = f32(position) ·
// frequency; half split: pairs i, i + F; interleaved: pairs 2i, 2i + 1; i < F. Elements from 2·F on pass through.
//
// Layout: x, y f32 [T, heads·head_dim]; positions i32 [T]; frequencies f32 [F]. Scratch: cosines then sines of a token,
// f32 [2][F], computed once for all its heads.
// Bound: memory, one read and one write of x; 2·F sines a token.
// Reached: 54 % of the streaming read at 4096 × 4096, not counting that a write reads its line first (AVX-512, 2 Zen 5
// cores, 2026-11-29; docs/performance.md).

namespace moe::cpu::MOE_ISA {

// Of larger angles the nearest multiple of π/2 has more bits than the reduction below takes off without a loss.
inline constexpr float largest_angle = 100000.0f;

// Sine and cosine within 1e-7 for |angle| ≤ largest_angle: of the angle less its nearest multiple of π/2 (Cody and Waite:
// of π/2 in three parts the first two have 8 bits, so that their products are exact, fused or not), by Cephes'
// polynomials, then by the quadrant.
MOE_INLINE void sine_cosine(Vec angle, Vec &sine, Vec &cosine) {
  const Vec n = round(mul(angle, broadcast(0.636619772367581343f)));
  Vec r = fnma(n, broadcast(1.5703125f), angle);
  r = fnma(n, broadcast(4.825592041015625e-4f), r);
  r = fnma(n, broadcast(1.2675907951e-6f), r);
  const Vec z = mul(r, r);
  Vec s = fma(broadcast(-1.9515295891e-4f), z, broadcast(8.3321608736e-3f));
  s = fma(s, z, broadcast(-1.6666654611e-1f));
  s = fma(mul(s, z), r, r);
  Vec c = fma(broadcast(2.443315711809948e-5f), z, broadcast(-1.388731625493765e-3f));
  c = fma(c, z, broadcast(4.166664568298827e-2f));
  c = fma(mul(c, z), z, fnma(broadcast(0.5f), z, broadcast(1.0f)));
  // n mod 4, as 0, 1, 2 or 3
  const Vec quadrant = fnma(broadcast(4.0f), round(fma(n, broadcast(0.25f), broadcast(-0.375f))), n);
  const Mask swapped = greater(broadcast(0.5f), abs(sub(abs(sub(quadrant, broadcast(2.0f))), broadcast(1.0f))));
  const Mask sine_falls = greater(quadrant, broadcast(1.5f));
  const Mask cosine_falls = greater(broadcast(1.0f), abs(sub(quadrant, broadcast(1.5f))));
  const Vec up = select(swapped, c, s), across = select(swapped, s, c);
  sine = select(sine_falls, sub(zero(), up), up);
  cosine = select(cosine_falls, sub(zero(), across), across);
}

// f32 [F] each, times `scale`.
inline void fill_angles(float position, const float *frequency, int64_t pairs, float scale, float *cosine,
                        float *sine) {
  for (int64_t i = 0; i < pairs; i += width) {
    const int64_t left = pairs - i;
    const Vec angle = mul(broadcast(position), load_some(frequency + i, left));
    Vec s = zero(), c = zero();
    if (any(greater(abs(angle), broadcast(largest_angle)))) {
      alignas(64) float lanes[width], sines[width], cosines[width];
      store(lanes, angle);
      for (int k = 0; k < width; ++k) sines[k] = __builtin_sinf(lanes[k]), cosines[k] = __builtin_cosf(lanes[k]);
      s = load(sines);
      c = load(cosines);
    } else {
      sine_cosine(angle, s, c);
    }
    store_some(sine + i, mul(s, broadcast(scale)), left);
    store_some(cosine + i, mul(c, broadcast(scale)), left);
  }
}

void rotate(const Context &c) {
  const moe_rotate &a = c.attribute<moe_rotate>();
  const Operand &x = c.input[0], &y = c.output[0];
  const float *frequency = c.input[2].as<const float>();
  const int64_t pairs = c.input[2].size(), head_dim = x.width / larger(a.heads, 1);
  c.parallel_for(x.rows, x.size() * 4 + x.rows * pairs * 8, [&](int64_t t, int) {
    float *cosine = reinterpret_cast<float *>(c.scratch) + t * 2 * pairs, *sine = cosine + pairs;
    const float position = static_cast<float>(c.input[1].as<const int32_t>()[t]);
    fill_angles(position, frequency, pairs, a.scale, cosine, sine);
    for (int64_t h = 0; h < a.heads; ++h) {
      const float *from = x.as<const float>() + t * x.width + h * head_dim;
      float *to = y.as<float>() + t * x.width + h * head_dim;
      if (a.interleaved) {
        for (int64_t i = 0; i < pairs; ++i) {
          const float u = from[2 * i], v = from[2 * i + 1];
          to[2 * i] = u * cosine[i] - v * sine[i];
          to[2 * i + 1] = v * cosine[i] + u * sine[i];
        }
      } else {
        for (int64_t i = 0; i < pairs; i += width) {
          const int64_t left = pairs - i;
          const Vec u = load_some(from + i, left), v = load_some(from + pairs + i, left);
          const Vec cosines = load_some(cosine + i, left), sines = load_some(sine + i, left);
          store_some(to + i, fms(u, cosines, mul(v, sines)), left);
          store_some(to + pairs + i, fma(v, cosines, mul(u, sines)), left);
        }
      }
      for (int64_t i = 2 * pairs; i < head_dim; i += width)
        store_some(to + i, load_some(from + i, head_dim - i), head_dim - i);
    }
  });
}

}  // namespace moe::cpu::MOE_ISA
