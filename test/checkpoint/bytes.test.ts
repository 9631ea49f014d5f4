import { strict as assert } from 'node:assert';
import { runInNewContext } from 'node:vm';
import * as bytes from '../../lib/checkpoint/bytes.ts';
import { moeError } from './support.ts';

const { bytesView, cut, join } = bytes;

describe('byte ranges', () => {
  it('cuts into views of the same memory', () => {
    const source = Uint8Array.of(9, 1, 2, 3, 4, 5).subarray(1);
    const pieces = cut(source, 2, 2, 5);
    assert.deepEqual(
      pieces.map((piece) => [...piece]),
      [[1, 2], [], [3, 4, 5], []],
    );
    (pieces[0] as Uint8Array)[0] = 7;
    assert.equal(source[0], 7);
  });

  it('joins views of any type', () => {
    assert.deepEqual(
      [...join(Uint16Array.of(0x0201), new DataView(Uint8Array.of(9, 3).buffer, 1), Uint8Array.of(4).buffer)],
      [1, 2, 3, 4],
    );
    assert.equal(join().length, 0);
  });

  it('refuses cuts that the library would clamp', () => {
    for (const cuts of [[4], [-1], [2, 1], [0.5], [NaN]]) {
      assert.throws(() => cut(new Uint8Array(3), ...cuts), moeError('INVALID_ARGUMENT', /rising/), String(cuts));
    }
  });

  it('takes buffers and views of another realm in full', () => {
    const foreign = runInNewContext('new Uint8Array([1, 2, 3]).buffer') as ArrayBuffer;
    assert.ok(!(foreign instanceof ArrayBuffer));
    assert.deepEqual([...join(foreign, runInNewContext('new Uint8Array([4, 5])') as Uint8Array)], [1, 2, 3, 4, 5]);
  });

  it('refuses shared and detached memory', () => {
    const shared = new SharedArrayBuffer(4);
    assert.throws(() => join(shared), moeError('INVALID_ARGUMENT', /shared memory/));
    assert.throws(() => cut(new Uint8Array(shared), 1), moeError('INVALID_ARGUMENT', /shared memory/));
    const foreign = runInNewContext('new SharedArrayBuffer(4)') as SharedArrayBuffer;
    assert.throws(() => join(foreign), moeError('INVALID_ARGUMENT', /shared memory/));
    const view = new Uint8Array(4);
    structuredClone(view.buffer, { transfer: [view.buffer] });
    assert.throws(() => bytesView(view), moeError('INVALID_ARGUMENT', /detached/));
    assert.throws(() => bytesView(view.buffer), moeError('INVALID_ARGUMENT', /detached/));
  });

  it('refuses what is no memory', () => {
    for (const value of [null, undefined, 'abc', 3, [1], {}]) {
      assert.throws(() => bytesView(value as unknown as Uint8Array), moeError('INVALID_ARGUMENT'));
    }
  });

  it('hands out no comparison of the library', () =>
    assert.deepEqual(Object.keys(bytes).sort(), ['bytesView', 'cut', 'join']));
});
