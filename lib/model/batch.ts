/** Lays out the next tokens of some sequences as the inputs of one run. */
import type { Sequence } from './kv-cache.ts';

/** The next tokens of one sequence; its pages reach as far. */
export interface Chunk {
  readonly sequence: Sequence;
  readonly ids: Int32Array;
}

export interface BatchInputs extends Record<string, Int32Array> {
  /** i32 [tokens]. */
  readonly ids: Int32Array;
  readonly positions: Int32Array;
  readonly sequence: Int32Array;
  /** i32 [sequences]. */
  readonly lengths: Int32Array;
  /** i32 [sequences · pages a sequence], −1 where a sequence has fewer. */
  readonly pages: Int32Array;
}

export function tokensOf(chunks: readonly Chunk[]): number {
  return chunks.reduce((sum, { ids }) => sum + ids.length, 0);
}

export function batchInputs(chunks: readonly Chunk[]): BatchInputs {
  const tokens = tokensOf(chunks);
  const perSequence = chunks.reduce((most, { sequence }) => Math.max(most, sequence.pages.length), 0);
  const inputs = {
    ids: new Int32Array(tokens),
    positions: new Int32Array(tokens),
    sequence: new Int32Array(tokens),
    lengths: new Int32Array(chunks.length),
    pages: new Int32Array(chunks.length * perSequence).fill(-1),
  };
  let at = 0;
  for (const [index, { sequence, ids }] of chunks.entries()) {
    inputs.ids.set(ids, at);
    inputs.sequence.fill(index, at, at + ids.length);
    for (let i = 0; i < ids.length; i++) inputs.positions[at + i] = sequence.length + i;
    inputs.lengths[index] = sequence.length + ids.length;
    inputs.pages.set(sequence.pages, index * perSequence);
    at += ids.length;
  }
  return inputs;
}
