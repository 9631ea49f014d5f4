/** Checks, before anything is allocated, that a checkpoint holds what a model needs, in the right shapes, and nothing else. */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { matrixSource, partSource } from '../checkpoint/compressed.ts';
import { partEntries, type StoredIntegers, type StoredPart } from '../checkpoint/stored-matrix.ts';
import { MoeError } from '../errors.ts';
import { formatShape } from '../tensor/shape.ts';
import { expertParts } from './parts.ts';
import { type MlpNames, type MoeNames, type MoeSpec, slotsOf, widthOf } from './spec.ts';

/** A tensor of the file. A `matrix` may be stored quantized, with its scales and offsets beside it; `part`: in the form that is given. */
export interface TensorNeed {
  readonly name: string;
  readonly shape: readonly number[];
  readonly matrix: boolean;
  readonly part?: StoredPart;
}

export function matrixNeed(name: string, rows: number, columns: number): TensorNeed {
  return { name: `${name}.weight`, shape: [rows, columns], matrix: true };
}

export function vectorNeed(name: string, size: number): TensorNeed {
  return { name, shape: [size], matrix: false };
}

export function* mlpNeeds(names: MlpNames, hidden: number, width: number): Generator<TensorNeed> {
  yield matrixNeed(names.gate, width, hidden);
  yield matrixNeed(names.up, width, hidden);
  yield matrixNeed(names.down, hidden, width);
}

export function* moeNeeds(spec: MoeSpec, names: MoeNames): Generator<TensorNeed> {
  yield matrixNeed(names.router, spec.router.experts, spec.hidden);
  if (spec.stored) {
    for (const { part } of expertParts(spec, spec.stored, names)) {
      yield { name: part.values.name, shape: part.values.shape, matrix: true, part };
    }
  } else {
    for (let slot = 0; slot < slotsOf(spec); slot++) {
      yield* mlpNeeds(names.expert(slot), spec.hidden, widthOf(spec, slot));
    }
  }
  if (names.shared && spec.sharedWidth > 0) yield* mlpNeeds(names.shared, spec.hidden, spec.sharedWidth);
  if (names.sharedGate && spec.sharedWidth > 0) yield matrixNeed(names.sharedGate, 1, spec.hidden);
}

/**
 * Returns the needs, all of which the checkpoint has. Stops at the first many that it lacks: a config.json may ask for
 * billions. Throws CHECKPOINT_TENSOR_MISSING with the names, SHAPE_MISMATCH, DTYPE_MISMATCH.
 */
export function requireTensors(
  checkpoint: Checkpoint,
  needs: Iterable<TensorNeed>,
  quantized: StoredIntegers | null | undefined,
): TensorNeed[] {
  const present: TensorNeed[] = [];
  const missing: string[] = [];
  for (const need of needs) {
    if (checkpoint.has(need.name)) present.push(need);
    else if (missing.push(need.name) === missingLimit) break;
  }
  if (missing.length > 0) {
    throw new MoeError('CHECKPOINT_TENSOR_MISSING', {
      argument: checkpoint.folder,
      expected: `the tensors ${listed(missing)}`,
      received: `${checkpoint.tensors.size} others`,
    });
  }
  for (const { name, shape, matrix, part } of present) {
    if (part) {
      partSource(checkpoint, part);
      continue;
    }
    if (matrix) {
      matrixSource(checkpoint, name, shape[0] as number, shape[1] as number, quantized);
      continue;
    }
    const stored = checkpoint.entry(name).shape;
    if (stored.length !== shape.length || stored.some((size, axis) => size !== shape[axis])) {
      throw new MoeError('SHAPE_MISMATCH', {
        argument: name,
        expected: formatShape(shape),
        received: formatShape(stored),
      });
    }
  }
  return present;
}

/** Throws CHECKPOINT_TENSOR_UNKNOWN with the names of the tensors that are neither needed nor matched by `ignored`. */
export function refuseUnknownTensors(
  checkpoint: Checkpoint,
  needs: readonly TensorNeed[],
  ignored: readonly RegExp[],
): void {
  const known = new Set<string>();
  for (const { name, matrix, part } of needs) {
    known.add(name);
    if (matrix && !part) known.add(`${name}_scale`).add(`${name}_offset`).add(`${name}_outer`);
    if (part) for (const entry of partEntries(part)) known.add(entry.name);
  }
  const unknown = [...checkpoint.tensors.keys()].filter(
    (name) => !known.has(name) && !ignored.some((pattern) => pattern.test(name)),
  );
  if (unknown.length === 0) return;
  throw new MoeError('CHECKPOINT_TENSOR_UNKNOWN', {
    argument: checkpoint.folder,
    expected: 'only tensors that the model uses',
    received: listed(unknown),
  });
}

const missingLimit = 1000;
const listLimit = 32;

function listed(names: readonly string[]): string {
  const rest = names.length - listLimit;
  return names.slice(0, listLimit).join(', ') + (rest > 0 ? ` and ${rest} more` : '');
}
