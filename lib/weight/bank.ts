/** An expert bank: the projections of all experts of a layer. */
import { invalid, requireObject } from '../arguments.ts';
import { MoeError } from '../errors.ts';
import { toHost } from '../tensor/dtype.ts';
import { Weight } from './weight.ts';

/** y = down · f(up · x). 'swiglu' and 'geglu' have a gated `up`: f is silu(gate) · up or gelu_tanh(gate) · up. */
export type ExpertKind = 'swiglu' | 'geglu' | 'gelu' | 'gelu_tanh' | 'silu' | 'relu';

export interface ExpertBank {
  /** The router's experts, E. */
  readonly experts: number;
  /** Matrices in `up` and `down`: E, or fewer where experts were merged. */
  readonly slots: number;
  /** [experts], the slot of each expert; absent: its own. */
  readonly groupOf: Int32Array | undefined;
  readonly kind: ExpertKind;
  /** hidden → width; gate|up rows where the kind is gated. */
  readonly up: Weight;
  /** width → hidden. */
  readonly down: Weight;
  /** Held by both weights. */
  readonly bytes: number;
  dispose(): void;
  [Symbol.dispose](): void;
}

const kinds: readonly ExpertKind[] = ['swiglu', 'geglu', 'gelu', 'gelu_tanh', 'silu', 'relu'];

/**
 * Joins two weights to a bank, which owns them from then on. `groupOf` is copied.
 * Throws INVALID_ARGUMENT, SHAPE_MISMATCH (the weights do not fit each other or the kind), DTYPE_MISMATCH.
 */
export function expertBank(parts: {
  kind: ExpertKind;
  up: Weight;
  down: Weight;
  groupOf?: Int32Array | undefined;
}): ExpertBank {
  const { kind, up, down } = requireObject(parts, 'parts');
  if (!kinds.includes(kind)) throw invalid('kind', kinds.join(', '), kind);
  if (!(up instanceof Weight)) throw invalid('up', 'a Weight', up);
  if (!(down instanceof Weight)) throw invalid('down', 'a Weight', down);
  const slots = up.spec.slots ?? 1;
  const gated = kind === 'swiglu' || kind === 'geglu';
  const width = gated ? up.spec.out / 2 : up.spec.out;
  const fits = (down.spec.slots ?? 1) === slots && down.spec.in === width && (up.spec.gated ?? false) === gated;
  if (!fits) {
    const expected = `${slots} slots with ${width} inputs, and an \`up\` that is ${gated ? '' : 'not '}gated for ${kind}`;
    throw new MoeError('SHAPE_MISMATCH', {
      argument: 'down',
      expected,
      received: `${down.spec.slots ?? 1} slots with ${down.spec.in} inputs`,
    });
  }
  const groupOf = parts.groupOf === undefined ? undefined : Int32Array.from(toHost(parts.groupOf, 'i32', 'groupOf'));
  const outside = groupOf?.find((slot) => slot < 0 || slot >= slots);
  if (outside !== undefined) throw invalid('groupOf', `slots in 0 … ${slots - 1}`, outside);
  const dispose = (): void => {
    up.dispose();
    down.dispose();
  };
  const bytes = up.bytes + down.bytes;
  return {
    experts: groupOf?.length ?? slots,
    slots,
    groupOf,
    kind,
    up,
    down,
    bytes,
    dispose,
    [Symbol.dispose]: dispose,
  };
}
