import { strict as assert } from 'node:assert';
import {
  boolean,
  caps,
  integers,
  nonNegativeInteger,
  number,
  oneOf,
  optional,
  positiveInteger,
  ropeOf,
  section,
  string,
  strings,
} from '../../lib/checkpoint/config.ts';
import { moeError } from './support.ts';

const odd: unknown[] = ['1', true, {}, [1], Number.NaN, Infinity, -Infinity];

describe('config readers', () => {
  it('read what is right', () => {
    const config = { a: 3, b: 0, c: 0.5, d: false, e: 'silu', f: [1, 0], g: ['x'], h: { i: 1 } };
    assert.equal(positiveInteger(config, 'a'), 3);
    assert.equal(nonNegativeInteger(config, 'b'), 0);
    assert.equal(number(config, 'c', { min: 0, max: 1 }), 0.5);
    assert.equal(boolean(config, 'd'), false);
    assert.equal(string(config, 'e'), 'silu');
    assert.equal(oneOf(config, 'e', ['silu', 'gelu']), 'silu');
    assert.deepEqual(integers(config, 'f', { length: 2 }), [1, 0]);
    assert.deepEqual(strings(config, 'g'), ['x']);
    assert.deepEqual(section(config, 'h'), { i: 1 });
  });

  it('take the first name that is there, and null as absent', () => {
    assert.equal(positiveInteger({ b: 2, c: 3 }, ['a', 'b', 'c']), 2);
    assert.equal(positiveInteger({ a: null, b: 2 }, ['a', 'b']), 2);
    assert.equal(positiveInteger({ a: null }, 'a', { fallback: 7 }), 7);
    assert.equal(optional({ a: null }, 'a', positiveInteger), undefined);
    assert.equal(optional({ a: 4 }, 'a', positiveInteger), 4);
    assert.throws(
      () => optional({ a: -4 }, 'a', positiveInteger),
      moeError('CONFIG_INVALID', /a: expected .*, got -4/),
    );
    assert.equal(boolean({}, 'a', { fallback: false }), false);
    assert.equal(section({}, 'a'), undefined);
  });

  it('name the keys, what was expected and what came', () => {
    assert.throws(
      () => positiveInteger({}, ['a', 'b']),
      moeError('CONFIG_INVALID', /a or b: expected an integer of at least 1, got nothing/),
    );
    assert.throws(
      () => positiveInteger({ layers: 1e9 }, 'layers', { max: caps.layers }),
      moeError('CONFIG_INVALID', /layers: expected an integer from 1 to 10000, got 1000000000/),
    );
    assert.throws(() => oneOf({ a: 'x' }, 'a', ['y', 'z']), moeError('CONFIG_INVALID', /one of y, z, got "x"/));
  });

  it('do not find what every object inherits', () => {
    for (const key of ['constructor', '__proto__', 'toString']) {
      assert.throws(() => string({}, key), moeError('CONFIG_INVALID', /nothing/));
      assert.equal(positiveInteger({}, key, { fallback: 1 }), 1);
    }
  });

  it('refuse every other kind of value', () => {
    const refused = (read: () => unknown, value: unknown) =>
      assert.throws(read, moeError('CONFIG_INVALID', /a: expected/), String(value));
    for (const value of [...odd, 0, -1, 1.5, 2 ** 53]) refused(() => positiveInteger({ a: value }, 'a'), value);
    for (const value of [...odd, -1, 0.5]) refused(() => nonNegativeInteger({ a: value }, 'a'), value);
    for (const value of [...odd, -1, 2]) refused(() => number({ a: value }, 'a', { min: 0, max: 1 }), value);
    for (const value of odd) refused(() => number({ a: value }, 'a'), value);
    for (const value of [0, 1, 'true', {}]) refused(() => boolean({ a: value }, 'a'), value);
    for (const value of [0, true, {}, ['a']]) refused(() => string({ a: value }, 'a'), value);
    for (const value of [1, 'a', {}, [0.5], ['1'], [-1], [1, 2, 3], [Number.NaN], [null]]) {
      refused(() => integers({ a: value }, 'a', { length: 1, max: 9 }), value);
    }
    for (const value of [1, 'a', {}, [1], [null]]) refused(() => strings({ a: value }, 'a'), value);
    for (const value of [1, 'a', []]) refused(() => section({ a: value }, 'a'), value);
  });
});

describe('ropeOf', () => {
  it('reads both generations of transformers', () => {
    const plain = { type: 'default', theta: 10000, factor: 1, partialRotaryFactor: 1 };
    assert.deepEqual(ropeOf({ rope_parameters: { rope_type: 'default', rope_theta: 10000 } }), plain);
    assert.deepEqual(ropeOf({ rope_theta: 10000, rope_scaling: null }), plain);
    assert.deepEqual(ropeOf({}, { theta: 10000 }), plain);
    const linear = { ...plain, type: 'linear', theta: 5e5, factor: 4 };
    assert.deepEqual(ropeOf({ rope_parameters: { rope_type: 'linear', rope_theta: 5e5, factor: 4 } }), linear);
    assert.deepEqual(ropeOf({ rope_theta: 5e5, rope_scaling: { type: 'linear', factor: 4 } }, { theta: 1e4 }), linear);
    const both = { rope_parameters: { rope_theta: 1e4 }, rope_theta: 5e5, rope_scaling: { type: 'linear', factor: 4 } };
    assert.deepEqual(ropeOf(both), linear);
    assert.deepEqual(ropeOf({ rope_parameters: { rope_theta: 1e4 }, rope_scaling: {} }), plain);
    const partial = { ...plain, partialRotaryFactor: 0.5 };
    assert.deepEqual(ropeOf({ rope_parameters: { rope_theta: 10000, partial_rotary_factor: 0.5 } }), partial);
    assert.deepEqual(ropeOf({ rope_theta: 10000, partial_rotary_factor: 0.5 }), partial);
  });

  it('reads yarn', () => {
    const scaling = { type: 'yarn', factor: 4, original_max_position_embeddings: 32768 };
    const { yarn, factor } = ropeOf({ rope_theta: 1e6, rope_scaling: scaling });
    const attentionFactor = 0.1 * Math.log(4) + 1;
    const expected = { originalPositions: 32768, betaFast: 32, betaSlow: 1, attentionFactor, truncate: true };
    assert.equal(factor, 4);
    assert.deepEqual(yarn, expected);
    const parameters = { rope_type: 'yarn', rope_theta: 1e6, attention_factor: 1.5, beta_fast: 16, truncate: false };
    const inferred = ropeOf({ rope_parameters: parameters, max_position_embeddings: 8192 });
    assert.equal(inferred.factor, 1);
    assert.deepEqual(inferred.yarn, {
      ...expected,
      originalPositions: 8192,
      betaFast: 16,
      attentionFactor: 1.5,
      truncate: false,
    });
    const weighted = { ...scaling, mscale: 0.5, mscale_all_dim: 1 };
    const ratio = (0.05 * Math.log(4) + 1) / attentionFactor;
    assert.equal(ropeOf({ rope_theta: 1e6, rope_scaling: weighted }).yarn?.attentionFactor, ratio);
  });

  it('names what it does not support', () => {
    for (const type of ['longrope', 'dynamic', 'llama3', 'mrope']) {
      const config = { rope_parameters: { rope_type: type, rope_theta: 1e4, factor: 2 } };
      assert.throws(() => ropeOf(config), moeError('CONFIG_UNSUPPORTED', new RegExp(type)));
    }
    const layers = { rope_parameters: { full_attention: { rope_type: 'default', rope_theta: 1e4 } } };
    assert.throws(() => ropeOf(layers, { theta: 1e4 }), moeError('CONFIG_UNSUPPORTED', /one rope/));
  });

  it('refuses broken settings', () => {
    const bad: Record<string, unknown>[] = [
      {},
      { rope_theta: 0 },
      { rope_theta: -1 },
      { rope_theta: '10000' },
      { rope_theta: Number.NaN },
      { rope_parameters: [] },
      { rope_parameters: { rope_type: 3, rope_theta: 1e4 } },
      { rope_parameters: { rope_type: 'linear', rope_theta: 1e4 } },
      { rope_parameters: { rope_type: 'linear', rope_theta: 1e4, factor: 0 } },
      { rope_theta: 1e4, partial_rotary_factor: 1.5 },
      { rope_theta: 1e4, rope_scaling: { type: 'yarn', factor: 4 } },
      { rope_theta: 1, rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 32 } },
      { rope_theta: 1e4, rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: -1 } },
    ];
    for (const config of bad) assert.throws(() => ropeOf(config), moeError('CONFIG_INVALID'), JSON.stringify(config));
  });
});
