import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import { boundOf, LimitMeter } from '../../lib/bench/limits.ts';
import { judge, requirePossible, type Subject, timeInTurn } from '../../lib/bench/rows.ts';

const limits = {
  readBytesPerSecond: 1e9,
  f32OperationsPerSecond: 1e9,
  bf16OperationsPerSecond: 0,
  int8OperationsPerSecond: 4e9,
};
const timed = { work: 'dense', shape: 'a', tokens: 1, weights: 'int8', ms: 2, bytes: 1e6, operations: { int8: 2e6 } };

describe('bench rows', () => {
  it('are bound by memory or by the sum over the units that they use', () => {
    assert.deepEqual(boundOf({ bytes: 3e9, operations: { f32: 1e9 } }, limits), { seconds: 3, limit: 'memory' });
    const mixed = { bytes: 1e9, operations: { f32: 1e9, int8: 4e9, bf16: 1e9 } };
    assert.deepEqual(boundOf(mixed, limits), { seconds: 3, limit: 'arithmetic' });
    assert.equal(boundOf(mixed, { ...limits, readBytesPerSecond: 0 }), undefined);
  });

  it('have a share of that bound; of arithmetic alone where the weights are warm', () => {
    const { share, limit, gigabytesPerSecond, teraoperationsPerSecond } = judge(timed, limits, false);
    assert.deepEqual({ share, limit }, { share: 0.5, limit: 'memory' });
    assert.deepEqual(
      { gigabytesPerSecond, teraoperationsPerSecond },
      { gigabytesPerSecond: 0.5, teraoperationsPerSecond: 0.001 },
    );
    const warm = judge(timed, limits, true);
    assert.deepEqual([warm.share, warm.limit], [0.25, 'arithmetic']);
  });

  it('are held against what the machine read around their turn', () => {
    assert.equal(judge({ ...timed, readBytesPerSecond: 0.5e9 }, limits, false).share, 1);
  });

  it('fail where one is above its limit', () => {
    const fast = judge({ ...timed, ms: 0.9 }, limits, false);
    requirePossible([judge({ ...timed, ms: 1 }, limits, false)]);
    assert.throws(() => requirePossible([fast]), {
      code: 'INTERNAL',
      received: /dense a int8, 1 tokens: 111 % of memory/,
    });
  });

  it('are timed in turn, each call on the next set', () => {
    const calls: string[] = [];
    const subject = (weights: string): Subject => ({
      ...{ tokens: 1, weights, cost: { bytes: 0, operations: {} } },
      call: (round) => void calls.push(`${weights}${round}`),
    });
    const times = timeInTurn([subject('a'), subject('b')], { rounds: 2 });
    assert.deepEqual(calls, ['a0', 'b0', 'a1', 'b1', 'a2', 'b2']);
    assert.deepEqual(
      times.map(({ length }) => length),
      [2, 2],
    );
  });
});

describe('limits of a run', () => {
  /** Of turns that each take longer than a measurement stays good. */
  async function during(reads: readonly number[], attempts?: number) {
    let [probes, turns] = [0, 0];
    const meter = new LimitMeter(async () => ({ ...limits, readBytesPerSecond: reads[probes++] ?? Number.NaN }));
    const turn = await meter.during(async () => {
      await pause(210);
      return turns++;
    }, attempts);
    return { ...turn, probes, turns, best: meter.limits.readBytesPerSecond };
  }

  it('come from before and after a turn', async () => {
    const expected = { result: 0, readBytesPerSecond: 52, probes: 2, turns: 1, best: 52 };
    assert.deepEqual(await during([50, 52]), expected);
  });

  it('of a turn in which the machine changed do not count, where another was steadier', async () => {
    const again = { result: 1, readBytesPerSecond: 52, probes: 3, turns: 2, best: 52 };
    assert.deepEqual(await during([30, 50, 52]), again);
    const never = { result: 1, readBytesPerSecond: 50, probes: 4, turns: 3, best: 60 };
    assert.deepEqual(await during([30, 50, 40, 60], 3), never);
  });

  it('may be unknown', async () => {
    const unknown = { result: 0, readBytesPerSecond: 0, probes: 2, turns: 1, best: 0 };
    assert.deepEqual(await during([0, 0]), unknown);
  });
});
