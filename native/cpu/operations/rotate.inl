// rotate: rotary positions. The pair (u, v) of a head becomes (u·cos − v·sin, v·cos + u·sin), angle = f32(position) ·
// frequency; half split: pairs i, i + F; interleaved: pairs 2i, 2i + 1; i < F. Elements from 2·F on pass through.
//
// Layout: x, y f32 [T, heads·head_dim]; positions i32 [T]; frequencies f32 [F]. Scratch: cosines then sines of a token,
// f32 [2][F], computed once for all its heads by the C library, whose sine and cosine are within an ulp for any angle.
// Bound: memory, one read and one write of x; 2·F sines a token.
// Reached: 42 % of the streaming read at 4096 × 2048; the C library's sines are the rest (AVX-512, 2 Cascade Lake
// cores, 2026-11-22; docs/performance.md).

namespace moe::cpu::MOE_ISA {

void rotate(const Context &c) {
  const moe_rotate &a = c.attribute<moe_rotate>();
  const Operand &x = c.input[0], &y = c.output[0];
  const float *frequency = c.input[2].as<const float>();
  const int64_t pairs = c.input[2].size(), head_dim = x.width / larger(a.heads, 1);
  c.parallel_for(x.rows, x.size() * 4 + x.rows * pairs * 40, [&](int64_t t, int) {
    float *cosine = reinterpret_cast<float *>(c.scratch) + t * 2 * pairs, *sine = cosine + pairs;
    const float position = static_cast<float>(c.input[1].as<const int32_t>()[t]);
    for (int64_t i = 0; i < pairs; ++i) {
      cosine[i] = __builtin_cosf(position * frequency[i]) * a.scale;
      sine[i] = __builtin_sinf(position * frequency[i]) * a.scale;
    }
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
