/** Properties that need no device: half floats, shapes, weight formats. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  bf16ToF32,
  f16ToF32,
  f32ToBf16,
  f32ToF16,
  formatBytes,
  formatName,
  MoeError,
  parseWeightFormat,
  type WeightFormat,
} from '../../lib/index.ts';
import { elementCount, formatShape, nativeShape } from '../../lib/tensor/shape.ts';
import { groupCount, nativeForm } from '../../lib/weight/format.ts';
import { moeError } from './support.ts';

const all = Uint16Array.from({ length: 65536 }, (_, i) => i);

const float32 = fc.oneof(
  fc.float({ noNaN: true }),
  fc
    .integer({ min: 0, max: 0xffffffff })
    .map(wordToFloat)
    .filter((x) => !Number.isNaN(x)),
);

function wordToFloat(word: number): number {
  return new Float32Array(Uint32Array.of(word).buffer)[0] as number;
}

describe('half floats', () => {
  for (const [name, widen, narrow] of [
    ['f16', f16ToF32, f32ToF16],
    ['bf16', bf16ToF32, f32ToBf16],
  ] as const) {
    it(`${name}: every code comes back, NaN stays NaN`, () => {
      const values = widen(all);
      const codes = narrow(values);
      for (let i = 0; i < 65536; i++) {
        if (Number.isNaN(values[i])) assert.ok(Number.isNaN(widen(codes.subarray(i, i + 1))[0]));
        else assert.equal(codes[i], i);
      }
    });

    it(`${name}: values grow with their codes`, () => {
      const values = widen(all);
      for (let i = 1; i < 0x8000 && !Number.isNaN(values[i]); i++) {
        assert.ok((values[i] as number) > (values[i - 1] as number));
        assert.equal(values[i + 0x8000], -(values[i] as number));
      }
    });

    it(`${name}: narrowing takes the nearest, ties to the even code`, () => {
      const infinityCode = name === 'f16' ? 0x7c00 : 0x7f80;
      const largest = widen(Uint16Array.of(infinityCode - 1))[0] as number;
      const step = largest - (widen(Uint16Array.of(infinityCode - 2))[0] as number);
      // Infinity stands one step past the largest, for the purpose of rounding.
      const at = (code: number): number =>
        code === infinityCode ? largest + step : (widen(Uint16Array.of(code))[0] as number);
      fc.assert(
        fc.property(float32, (x) => {
          const code = (narrow(Float32Array.of(x))[0] as number) & 0x7fff;
          const magnitude = Math.abs(x);
          assert.equal((narrow(Float32Array.of(x))[0] as number) >> 15, Object.is(x, -0) || x < 0 ? 1 : 0);
          if (magnitude >= largest + step / 2) return assert.equal(code, infinityCode);
          const error = Math.abs(magnitude - at(code));
          for (const beside of [code - 1, code + 1]) {
            if (beside < 0 || beside > infinityCode) continue;
            const other = Math.abs(magnitude - at(beside));
            assert.ok(error < other || (error === other && code % 2 === 0), `${x} → ${code}, not ${beside}`);
          }
        }),
        { numRuns: 5000 },
      );
    });
  }

  it('Math.f16round agrees where the runtime has it', () => {
    const round = (Math as { f16round?: (x: number) => number }).f16round;
    fc.assert(fc.property(float32, (x) => !round || Object.is(f16ToF32(f32ToF16(Float32Array.of(x)))[0], round(x))));
  });

  it('works on views at an odd place', () => {
    const backing = new Float32Array(8).fill(1.5);
    assert.deepEqual([...f32ToBf16(backing.subarray(3, 5))], [0x3fc0, 0x3fc0]);
  });
});

describe('shapes', () => {
  const sizes = fc.array(fc.nat(1000), { minLength: 1, maxLength: 4 });

  it('count the product of their dimensions', () => {
    fc.assert(fc.property(sizes, (shape) => elementCount(shape) === shape.reduce((a, b) => a * b, 1)));
  });

  it('are kept by the long form, and the long form by itself', () => {
    const first = fc.oneof(
      fc.nat(99),
      fc.constantFrom('tokens', 'rows'),
      fc.record({ factor: fc.integer({ min: 1, max: 9 }), symbol: fc.constant('t') }),
    );
    fc.assert(
      fc.property(first, fc.array(fc.nat(99), { maxLength: 3 }), (head, tail) => {
        const long = nativeShape([head, ...tail]);
        assert.deepEqual(nativeShape(long), long);
        assert.deepEqual(long.slice(1), tail);
        assert.equal(formatShape(long), formatShape([head, ...tail]));
      }),
    );
  });

  it('refuse anything else with SHAPE_MISMATCH', () => {
    fc.assert(
      fc.property(fc.anything(), (value) => {
        try {
          elementCount(value as number[]);
        } catch (error) {
          assert.ok(error instanceof MoeError && error.code === 'SHAPE_MISMATCH');
        }
        try {
          nativeShape(value as number[]);
        } catch (error) {
          assert.ok(error instanceof MoeError && error.code === 'SHAPE_MISMATCH');
        }
      }),
    );
  });
});

describe('weight formats', () => {
  const format: fc.Arbitrary<WeightFormat> = fc.oneof(
    fc.constantFrom<WeightFormat>({ format: 'f32' }, { format: 'f16' }, { format: 'bf16' }),
    fc.record(
      {
        format: fc.constantFrom('int8' as const, 'int4' as const),
        groupSize: fc.constantFrom(32 as const, 64 as const, 128 as const, 'channel' as const),
        offset: fc.boolean(),
        scale: fc.constantFrom('f16' as const, 'f32' as const),
      },
      { requiredKeys: ['format'] },
    ),
    fc.record(
      {
        format: fc.constant('int4' as const),
        dual: fc.constant(true),
        groupSize: fc.constantFrom(32 as const, 64 as const, 128 as const),
        scale: fc.constantFrom('f16' as const, 'f32' as const),
      },
      { requiredKeys: ['format', 'dual'] },
    ),
  );
  const size = fc.integer({ min: 1, max: 5000 });

  it('are read back from their names', () => {
    fc.assert(
      fc.property(format, (f) => assert.deepEqual(nativeForm(parseWeightFormat(formatName(f))), nativeForm(f))),
    );
  });

  it('count bytes row by row', () => {
    fc.assert(
      fc.property(
        format,
        size,
        size,
        (f, rows, columns) => formatBytes(f, rows, columns) === rows * formatBytes(f, 1, columns),
      ),
    );
  });

  it('cost what their parts cost', () => {
    fc.assert(
      fc.property(format, size, (f, columns) => {
        const form = nativeForm(f);
        const bits = { f32: 32, f16: 16, bf16: 16, i8: 8, i4: 4 }[form.store];
        const bytes = { f32: 4, f16: 2, i8: 1 };
        const scales = form.scale ? groupCount(form, columns) * bytes[form.scale] * (form.offset ? 2 : 1) : 0;
        const outer = form.outer ? bytes[form.outer] : 0;
        assert.equal(formatBytes(f, 1, columns), Math.ceil((columns * bits) / 8) + scales + outer);
        if (form.group) assert.equal(groupCount(form, columns), Math.ceil(columns / form.group));
      }),
    );
  });

  it('are those that are documented by default', () => {
    assert.deepEqual(nativeForm({ format: 'int4' }), { store: 'i4', scale: 'f16', offset: true, group: 32 });
    assert.deepEqual(nativeForm({ format: 'int8' }), { store: 'i8', scale: 'f32', offset: false, group: 0 });
    assert.deepEqual(parseWeightFormat('int4:channel:symmetric'), {
      format: 'int4',
      groupSize: 'channel',
      offset: false,
    });
    assert.equal(formatBytes({ format: 'int4' }, 2, 33), 2 * (17 + 2 * 2 * 2));
  });

  it('refuse what is none', () => {
    for (const text of ['', 'int5', 'int4:16', 'bf16:32', 'int4:', 'int4:32:32x', 'INT4']) {
      assert.throws(() => parseWeightFormat(text), moeError('INVALID_ARGUMENT', 'weights'));
    }
    for (const text of ['int8:dual', 'int4:channel:dual', 'int4:32:dual:offset']) {
      assert.throws(() => nativeForm(parseWeightFormat(text)), moeError('INVALID_ARGUMENT'));
    }
    assert.throws(() => nativeForm({ format: 'int4', groupSize: 48 as 32 }), moeError('INVALID_ARGUMENT', 'groupSize'));
    assert.throws(() => nativeForm({ format: 'int4', scale: 'bf16' as 'f16' }), moeError('INVALID_ARGUMENT', 'scale'));
  });
});
