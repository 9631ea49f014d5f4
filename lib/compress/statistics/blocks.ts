/** What an observed block gets at once: a batch of windows, or only tokens that matter, packed. */
import type { Batch } from './batches.ts';

/** f32 [tokens, hidden] of each batch, by name. */
export type Arrays = Readonly<Record<string, readonly Float32Array[]>>;

export interface Block {
  /** Absent where tokens of several batches are packed. */
  readonly batch: Batch | undefined;
  readonly tokens: number;
  readonly inputs: Readonly<Record<string, Float32Array | Int32Array>>;
  /** Puts rows [tokens, hidden] of an output where the observer wants them. */
  readonly put: (name: string, rows: Float32Array) => void;
}

/** What an observer gives along, and where it wants outputs. */
interface Given {
  readonly inputs: Arrays;
  readonly into: Arrays;
}

/** Some tokens of the windows, packed for a block, which treats each alone. */
export class TokenSelection {
  /** Of each packed batch, the batches that its tokens come from, with their places there. */
  readonly pieces: readonly (readonly { readonly batch: number; readonly tokens: Int32Array }[])[];

  /**
   * @param tokens [batches], rising
   * @param most tokens of a packed batch
   */
  constructor(tokens: readonly Int32Array[], most: number) {
    const packed: { batch: number; tokens: Int32Array }[][] = [];
    let room = 0;
    for (const [batch, own] of tokens.entries()) {
      for (let begin = 0; begin < own.length; ) {
        if (room === 0) {
          packed.push([]);
          room = most;
        }
        const part = own.subarray(begin, begin + room);
        packed.at(-1)?.push({ batch, tokens: part });
        begin += part.length;
        room -= part.length;
      }
    }
    this.pieces = packed;
  }

  /** Rows [tokens, width] of a packed batch, of those of each batch. */
  gather(packed: number, from: readonly Float32Array[], width: number): Float32Array {
    const pieces = this.pieces[packed] ?? [];
    const rows = new Float32Array(pieces.reduce((sum, { tokens }) => sum + tokens.length, 0) * width);
    let to = 0;
    for (const { batch, tokens } of pieces) {
      const own = from[batch] as Float32Array;
      for (const token of tokens) {
        rows.set(own.subarray(token * width, (token + 1) * width), to);
        to += width;
      }
    }
    return rows;
  }

  /** Puts rows of a packed batch where they belong in those of each batch. */
  scatter(packed: number, rows: Float32Array, into: readonly Float32Array[], width: number): void {
    let from = 0;
    for (const { batch, tokens } of this.pieces[packed] ?? []) {
      const own = into[batch] as Float32Array;
      for (const token of tokens) {
        own.set(rows.subarray(from, from + width), token * width);
        from += width;
      }
    }
  }
}

/** Batch by batch; `only`: one of them, counted round, for which alone there are inputs. */
export function* wholeBlocks(
  batches: readonly Batch[],
  { inputs, into }: Given,
  only: number | undefined,
): Generator<Block> {
  for (const [at, batch] of batches.entries()) {
    if (only !== undefined && at !== only % batches.length) continue;
    const given = Object.entries(inputs).map(([name, arrays]) => [name, arrays[only === undefined ? at : 0]]);
    yield {
      batch,
      tokens: batch.ids.length,
      inputs: {
        middle: batch.middle,
        ...(batch.original && { original: batch.original.hidden, originalMiddle: batch.original.middle }),
        ...Object.fromEntries(given),
      },
      put: (name, rows) => into[name]?.[at]?.set(rows),
    };
  }
}

/** Some tokens of the batches alone. */
export function* packedBlocks(
  batches: readonly Batch[],
  tokens: TokenSelection,
  { inputs, into }: Given,
  hidden: number,
): Generator<Block> {
  const originals = batches.flatMap(({ original }) => original ?? []);
  const from: Arrays = {
    middle: batches.map(({ middle }) => middle),
    ...(originals.length > 0 && {
      original: originals.map((batch) => batch.hidden),
      originalMiddle: originals.map(({ middle }) => middle),
    }),
    ...inputs,
  };
  for (const [at, pieces] of tokens.pieces.entries()) {
    const gathered = Object.entries(from).map(([name, arrays]) => [name, tokens.gather(at, arrays, hidden)]);
    yield {
      batch: undefined,
      tokens: pieces.reduce((sum, piece) => sum + piece.tokens.length, 0),
      inputs: Object.fromEntries(gathered),
      put: (name, rows) => tokens.scatter(at, rows, into[name] ?? [], hidden),
    };
  }
}
