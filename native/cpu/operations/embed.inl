// embed: y[t] = scale · table[ids[t]], zeros where the id is outside the table.
//
// Layout: ids i32 [T], table [V, H] in its stored dtype, y f32 [T, H]; dense, row-major.
// Bound: memory, H elements of the table read and H floats written a token.
// Reached: 22 % of the streaming read at 4096 rows of 2048 (bf16 table); the rows are scattered (AVX-512, 2 Cascade
// Lake cores, 2026-11-22; docs/performance.md).

namespace moe::cpu::MOE_ISA {

void embed(const Context &c) {
  const Operand &ids = c.input[0], &table = c.input[1], &y = c.output[0];
  const Vec scale = broadcast(c.attribute<moe_embed>().scale);
  c.parallel_for(ids.rows, y.size(), [&](int64_t t, int) {
    const int64_t id = ids.as<const int32_t>()[t];
    float *out = y.as<float>() + t * y.width;
    const bool known = id >= 0 && id < table.rows;
    for (int64_t h = 0; h < y.width; h += width) {
      const int64_t left = y.width - h;
      store_some(out + h, known ? mul(scale, load_any(table.data, table.dtype, id * table.width + h, left)) : zero(),
                 left);
    }
  });
}

}  // namespace moe::cpu::MOE_ISA
