// Functions on the vocabulary, once for all instruction sets. Errors against the exact value in units of the last
// place of f32:
// exp 2, tanh 3, sigmoid 3; erfc 1.3e-7 relative plus the rounding of its exponent.

namespace moe::cpu::MOE_ISA {

// Cephes' expf: e^x = 2^n · e^r, |r| ≤ ln 2 / 2. −∞ and below −87.3: 0; above 88.7: ∞; NaN stays.
MOE_INLINE Vec exp(Vec x) {
  const Vec bounded = max(broadcast(-88.0f), min(broadcast(89.0f), x));
  const Vec n = round(mul(bounded, broadcast(1.44269504088896341f)));
  Vec r = fnma(n, broadcast(0.693359375f), bounded);
  r = fnma(n, broadcast(-2.12194440e-4f), r);
  Vec p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), broadcast(1.0f));
  return select(greater(broadcast(-87.33654f), x), zero(), scale_power(p, n));
}

MOE_INLINE Vec sigmoid(Vec x) { return div(broadcast(1.0f), add(broadcast(1.0f), exp(sub(zero(), x)))); }
MOE_INLINE Vec silu(Vec x) { return div(x, add(broadcast(1.0f), exp(sub(zero(), x)))); }

// Cephes' tanhf: a polynomial below 0.625, 1 − 2 / (e^2|x| + 1) above.
MOE_INLINE Vec tanh(Vec x) {
  const Vec z = mul(x, x);
  Vec p = broadcast(-5.70498872745e-3f);
  p = fma(p, z, broadcast(2.06390887954e-2f));
  p = fma(p, z, broadcast(-5.37397155531e-2f));
  p = fma(p, z, broadcast(1.33314422036e-1f));
  p = fma(p, z, broadcast(-3.33332819422e-1f));
  const Vec small = fma(mul(p, z), x, x);
  const Vec size = abs(x);
  const Vec big = sub(broadcast(1.0f), div(broadcast(2.0f), add(exp(add(size, size)), broadcast(1.0f))));
  const Vec signed_big = select(greater(zero(), x), sub(zero(), big), big);
  return select(greater(size, broadcast(0.625f)), signed_big, small);
}

// Complementary error function (Numerical Recipes, section 6.2, Chebyshev fit).
MOE_INLINE Vec erfc(Vec x) {
  const Vec z = abs(x);
  const Vec t = div(broadcast(1.0f), fma(broadcast(0.5f), z, broadcast(1.0f)));
  Vec p = broadcast(0.17087277f);
  p = fma(p, t, broadcast(-0.82215223f));
  p = fma(p, t, broadcast(1.48851587f));
  p = fma(p, t, broadcast(-1.13520398f));
  p = fma(p, t, broadcast(0.27886807f));
  p = fma(p, t, broadcast(-0.18628806f));
  p = fma(p, t, broadcast(0.09678418f));
  p = fma(p, t, broadcast(0.37409196f));
  p = fma(p, t, broadcast(1.00002368f));
  p = fma(p, t, broadcast(-1.26551223f));
  const Vec y = mul(t, exp(fnma(z, z, p)));
  return select(greater(zero(), x), sub(broadcast(2.0f), y), y);
}

MOE_INLINE Vec gelu(Vec x) { return mul(mul(broadcast(0.5f), x), erfc(mul(x, broadcast(-0.70710678118654752f)))); }
MOE_INLINE Vec gelu_tanh(Vec x) {  // 0.5·x·(1 + tanh u) = x·sigmoid(2u), u = √(2/π)·(x + 0.044715·x³)
  const Vec u = mul(x, fma(mul(x, x), broadcast(0.7978845608028654f * 0.044715f), broadcast(0.7978845608028654f)));
  return div(x, add(broadcast(1.0f), exp(mul(broadcast(-2.0f), u))));
}

}  // namespace moe::cpu::MOE_ISA
