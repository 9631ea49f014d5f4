import assert from 'node:assert/strict';
import { keepFloats } from '../../lib/checkpoint/json-floats.ts';

describe('floats of a JSON text', () => {
  const source =
    '{"theta": 10000.0, "noise" : 0.0, "epsilon": 1e-06, "layers": 4, "rope": {"factor": 2.0}, "tiny": 1E0}';

  it('are spelled as in the source, where they are still the same', () => {
    const config = { ...JSON.parse(source), layers: 2, added: 1 };
    const text = keepFloats(JSON.stringify(config, undefined, 2), source);
    assert.deepEqual(JSON.parse(text), config);
    for (const entry of ['"theta": 10000.0', '"noise": 0.0', '"epsilon": 1e-06', '"factor": 2.0', '"tiny": 1E0']) {
      assert.ok(text.includes(entry), entry);
    }
    assert.ok(/"layers": 2,/.test(text) && /"added": 1\n/.test(text), text);
  });

  it('are left as they are where the value or the key is another, and in strings', () => {
    const other = JSON.stringify({ theta: 20000, epsilon2: 1, text: 'the "noise": 0, and "theta": 10000' });
    assert.equal(keepFloats(other, source), other);
  });
});
