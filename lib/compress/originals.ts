/** The experts of a layer as the source has them. All matrices are checked: a weight that is not finite throws CHECKPOINT_MALFORMED. */
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { StoredFloats } from '../checkpoint/stored-matrix.ts';
import { MoeError } from '../errors.ts';
import type { MlpNames, MoeNames, MoeSpec } from '../moe/spec.ts';
import type { ExpertMatrices } from './expert.ts';
import { type Expert, type ExpertLayer, layerOf, type Matrix, readMatrix } from './experts.ts';

/** The dense matrices of one expert. */
export async function originalExpert(
  checkpoint: Checkpoint,
  { hidden, width }: Pick<MoeSpec, 'hidden' | 'width'>,
  names: MlpNames,
): Promise<ExpertMatrices> {
  const [gate, up, down] = matrixNames(names);
  const read = async (name: string): Promise<Float32Array> => requireFinite(name, await checkpoint.readF32(name));
  return { hidden, width, gate: await read(gate), up: await read(up), down: await read(down) };
}

/** All experts, stored as `form`; nothing is read before it is asked for. */
export function originalExperts(
  checkpoint: Checkpoint,
  { hidden, width, kind, router }: MoeSpec,
  names: MoeNames,
  form: StoredFloats,
): ExpertLayer {
  const slots = Array.from({ length: router.experts }, (_, expert): Expert => {
    const [gate, up, down] = matrixNames(names.expert(expert));
    const matrix = (name: string, rows: number, columns: number): Matrix =>
      readMatrix({ rows, columns }, () => requireFinite(name, checkpoint.readF32Now(name)));
    return {
      hidden,
      width,
      gate: matrix(gate, width, hidden),
      up: matrix(up, width, hidden),
      down: matrix(down, hidden, width),
    };
  });
  return layerOf(slots, kind, form);
}

export function matrixNames({ gate, up, down }: MlpNames): [string, string, string] {
  return [`${gate}.weight`, `${up}.weight`, `${down}.weight`];
}

function requireFinite(name: string, values: Float32Array): Float32Array {
  let sum = 0;
  // x − x is 0 for finite x alone.
  for (let at = 0; at < values.length; at++) sum += (values[at] as number) - (values[at] as number);
  if (sum === 0) return values;
  const at = values.findIndex((value) => !Number.isFinite(value));
  const received = `${values[at]} at element ${at}`;
  throw new MoeError('CHECKPOINT_MALFORMED', { argument: name, expected: 'finite weights', received });
}
