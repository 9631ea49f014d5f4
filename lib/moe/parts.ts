/** The stored parts of a layer's experts, in the order of the bank: slot after slot, gate before up. */
import type { StoredExperts } from '../checkpoint/compressed.ts';
import { type StoredMatrix, type StoredPart, storedParts } from '../checkpoint/stored-matrix.ts';
import { type MoeNames, type MoeSpec, slotsOf, widthOf } from './spec.ts';

export interface ExpertPart {
  readonly matrix: 'gate' | 'up' | 'down';
  readonly slot: number;
  readonly part: StoredPart;
}

/** What a layer's experts store, part by part. */
export function* expertParts(spec: MoeSpec, stored: StoredExperts, names: MoeNames): Generator<ExpertPart> {
  const { hidden } = spec;
  const bases = stored.baseOf && Math.max(...stored.baseOf) + 1;
  for (let slot = 0; slot < slotsOf(spec); slot++) {
    const width = widthOf(spec, slot);
    const own = names.expert(slot);
    for (const matrix of ['gate', 'up', 'down'] as const) {
      const form: StoredMatrix | undefined = stored[matrix];
      if (!form) continue;
      const size = matrix === 'down' ? ([hidden, width] as const) : ([width, hidden] as const);
      for (const part of storedParts(`${own[matrix]}.weight`, form, slot, size, bases === undefined || slot < bases)) {
        yield { matrix, slot, part };
      }
    }
  }
}
