/** What the experts of a layer store, part by part, as the headers of the files tell. */
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { tensorBytes } from '../../checkpoint/safetensors.ts';
import type { StoredPart } from '../../checkpoint/stored-matrix.ts';
import type { WriterEntry } from '../../checkpoint/writer.ts';
import { familyOf } from '../../model/family.ts';
import { expertParts } from '../../moe/parts.ts';
import { type MoeNames, type MoeSpec, slotsOf, widthOf } from '../../moe/spec.ts';

export interface StoredExpertPart {
  readonly slot: number;
  readonly part: StoredPart['part'];
  /** Names of its tensors. */
  readonly tensors: readonly string[];
  /** Elements; scales, offsets and indices do not count. */
  readonly parameters: number;
  /** Of its tensors, all of them. */
  readonly bytes: number;
  /** Whether the values are codes of 8 or 4 bits. */
  readonly integer: boolean;
}

/** The parts of all slots of a layer, in the order of the slots. */
export function* storedExperts(checkpoint: Checkpoint, spec: MoeSpec, names: MoeNames): Generator<StoredExpertPart> {
  if (spec.stored) {
    for (const { slot, part } of expertParts(spec, spec.stored, names)) {
      const tensors = [part.values, part.scale, part.offset, part.outer, part.index].filter(isEntry);
      yield {
        slot,
        part: part.part,
        tensors: tensors.map(({ name }) => name),
        parameters: part.rows * part.columns,
        bytes: tensors.reduce((sum, { dtype, shape }) => sum + (tensorBytes(dtype, shape) ?? 0), 0),
        integer: part.scale !== undefined,
      };
    }
    return;
  }
  for (let slot = 0; slot < slotsOf(spec); slot++) {
    const { gate, up, down } = names.expert(slot);
    for (const name of [gate, up, down]) {
      const tensors = ['', '_scale', '_offset']
        .map((end) => `${name}.weight${end}`)
        .filter((own) => checkpoint.has(own));
      yield {
        slot,
        part: 'base',
        tensors,
        parameters: widthOf(spec, slot) * spec.hidden,
        bytes: tensors.reduce((sum, own) => sum + bytesOf(checkpoint, own), 0),
        integer: tensors.length > 1,
      };
    }
  }
}

/** The size of one MoE layer's experts. */
export interface LayerSize {
  readonly layer: number;
  /** Of the stored expert matrices, scales and indices included. */
  readonly bytes: number;
  /** Elements of the stored matrices, the router's included. */
  readonly parameters: number;
}

/** Of all MoE layers of a folder, in order. Throws what reading the folder's config throws. */
export function layerSizes(checkpoint: Checkpoint): LayerSize[] {
  const { config, names } = familyOf(checkpoint.config);
  return config(checkpoint.config).layers.flatMap(({ block }, layer) => {
    if (block.kind !== 'moe') return [];
    const { moe } = block;
    let [bytes, parameters] = [0, moe.router.experts * moe.hidden];
    for (const part of storedExperts(checkpoint, moe, names.layer(layer).moe)) {
      bytes += part.bytes;
      parameters += part.parameters;
    }
    return [{ layer, bytes, parameters }];
  });
}

/** Bytes of one tensor on disk. */
export function bytesOf(checkpoint: Checkpoint, name: string): number {
  const { begin, end } = checkpoint.entry(name);
  return end - begin;
}

function isEntry(entry: WriterEntry | undefined): entry is WriterEntry {
  return entry !== undefined;
}
