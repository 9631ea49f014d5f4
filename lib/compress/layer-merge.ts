import type { NativePiece } from '../addon.ts';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { SafetensorsDtype } from '../checkpoint/safetensors.ts';
import type { Device } from '../device/device.ts';
import type { Family } from '../model/decoder-config.ts';
import type { MlpNames, MoeNames, MoeSpec } from '../moe/spec.ts';
import { Tensor } from '../tensor/tensor.ts';
import { expertBank } from '../weight/bank.ts';
import { isInteger, type WeightFormat } from '../weight/format.ts';
import { Weight } from '../weight/weight.ts';
import { alignmentTo, permuteNeurons } from './align.ts';
import type { ExpertMatrices } from './expert.ts';
import type { LayerStream } from './layer-stream.ts';
import { ExpertMean, mergeShares } from './merge.ts';
import type { NewMatrix } from './model-writer.ts';
import { refitDown } from './recover.ts';
import type { LayerReport } from './report.ts';

const floatDtypes = { f32: 'F32', f16: 'F16', bf16: 'BF16' } as const;

/** The merge of one layer's experts into its groups. */
export class LayerMerge {
  readonly layer: LayerReport;
  readonly #checkpoint: Checkpoint;
  readonly #spec: MoeSpec;
  readonly #names: MoeNames;
  readonly #groupOf: Int32Array;
  /** Experts of each group, ascending. */
  readonly #members: readonly (readonly number[])[];

  constructor(checkpoint: Checkpoint, family: Family, layer: LayerReport) {
    this.layer = layer;
    this.#checkpoint = checkpoint;
    const block = family.config(checkpoint.config).layers[layer.layer]?.block;
    this.#spec = (block as { moe: MoeSpec }).moe;
    this.#names = family.names.layer(layer.layer).moe;
    this.#groupOf = Int32Array.from(layer.labels);
    this.#members = Array.from({ length: layer.groups }, (_, group) =>
      layer.labels.flatMap((label, expert) => (label === group ? [expert] : [])),
    );
  }

  /** Names of the source tensors that the merge replaces. */
  get sourceNames(): string[] {
    return this.layer.labels.flatMap((_, expert) => matrixNames(this.#names.expert(expert)));
  }

  /** What the new folder holds for this layer. */
  matrices(weights: WeightFormat | undefined): NewMatrix[] {
    const { hidden, width } = this.#spec;
    return this.#members.flatMap((_, slot) => {
      const [gate, up, down] = matrixNames(this.#names.expert(slot));
      const dtype = (name: string): SafetensorsDtype =>
        weights && !isInteger(weights) ? floatDtypes[weights.format] : this.#checkpoint.entry(name).dtype;
      return [
        { name: gate, rows: width, columns: hidden, dtype: dtype(gate) },
        { name: up, rows: width, columns: hidden, dtype: dtype(up) },
        { name: down, rows: hidden, columns: width, dtype: dtype(down) },
      ];
    });
  }

  /**
   * Experts of a group aligned and averaged by usage; an expert alone in its group stays as it is.
   *
   * @param alignTo the layer's first expert, as published, or the most used of the group, which merges better (docs/performance.md)
   */
  async mean(alignTo: 'first' | 'most-used'): Promise<ExpertMatrices[]> {
    const frequency = Float64Array.from(this.layer.frequencies);
    const slots: ExpertMatrices[] = [];
    for (const members of this.#members) {
      const shares = mergeShares(frequency, members);
      const reference = await this.#read(alignTo === 'first' ? 0 : mostUsed(frequency, members));
      const mean = new ExpertMean();
      for (const [index, expert] of members.entries()) {
        const matrices = await this.#read(expert);
        if (members.length === 1) slots.push(matrices);
        else mean.add(permuteNeurons(matrices, await alignmentTo(reference, matrices)), shares[index] as number);
      }
      if (members.length > 1) slots.push(mean.mean());
    }
    return slots;
  }

  /**
   * Refits the down projections of `slots` in place to the original experts' gated outputs on the inputs that the layers before give,
   * and moves the stream past this layer.
   */
  async refit(
    device: Device,
    stream: LayerStream,
    slots: ExpertMatrices[],
    weights: WeightFormat | undefined,
  ): Promise<void> {
    const { hidden, width, kind } = this.#spec;
    const groups = slots.length;
    const format = weights ?? this.#sourceFormat();
    const up = await loadSlots(device, slots, 'up', format);
    const gram = await Tensor.zeros(device, 'f64', [groups, width, width]);
    const cross = await Tensor.zeros(device, 'f64', [groups, hidden, width]);
    const { experts } = this.#spec.router;
    const counts = await Tensor.zeros(device, 'f64', [experts]);
    try {
      await stream.halt(
        this.layer.layer,
        (graph, values) => {
          const routing = graph.regroup(values.routing, this.#groupOf, groups);
          const target = graph.combine(values.rows, values.routing, { onto: routing });
          const merged = graph.linear(values.input, up, { activation: kind, routing });
          const gramState = graph.state('gram', 'f64', [groups, width, width]);
          const crossState = graph.state('cross', 'f64', [groups, hidden, width]);
          graph.accumulate('gram', merged, gramState, { routing, gatePower: 2 });
          graph.accumulate('gram', target, crossState, { b: merged, routing, gatePower: 1 });
          graph.accumulate('count', values.routing.ids, graph.state('counts', 'f64', [experts]));
        },
        { gram, cross, counts },
      );
      const [a, b, visits] = [await gram.read(), await cross.read(), await counts.read()];
      for (const [slot, matrices] of slots.entries()) {
        const members = this.#members[slot] as readonly number[];
        if (members.length === 1) continue;
        const rows = members.reduce((sum, expert) => sum + (visits[expert] as number), 0);
        const gramOf = a.subarray(slot * width * width, (slot + 1) * width * width);
        const crossOf = b.subarray(slot * hidden * width, (slot + 1) * hidden * width);
        slots[slot] = {
          ...matrices,
          down: await refitDown({ gram: gramOf, cross: crossOf, rows }, matrices.down, width, hidden),
        };
      }
      const down = await loadSlots(device, slots, 'down', format);
      const bank = expertBank({ kind, up, down, groupOf: this.#groupOf });
      await stream.finish(this.layer.layer, (original) => ({
        ...original,
        spec: { ...original.spec, merged: { groups, groupOf: this.#groupOf } },
        experts: bank,
      }));
      down.dispose();
    } finally {
      up.dispose();
      gram.dispose();
      cross.dispose();
      counts.dispose();
    }
  }

  /** The matrices of all slots with the names that they are stored under. */
  *named(slots: readonly ExpertMatrices[]): Generator<[string, Float32Array]> {
    for (const [slot, { gate, up, down }] of slots.entries()) {
      const names = matrixNames(this.#names.expert(slot));
      if (gate) yield [names[0], gate];
      yield [names[1], up];
      yield [names[2], down];
    }
  }

  async #read(expert: number): Promise<ExpertMatrices> {
    const [gate, up, down] = matrixNames(this.#names.expert(expert));
    const { hidden, width } = this.#spec;
    return {
      hidden,
      width,
      gate: await this.#checkpoint.readF32(gate),
      up: await this.#checkpoint.readF32(up),
      down: await this.#checkpoint.readF32(down),
    };
  }

  #sourceFormat(): WeightFormat {
    const { dtype } = this.#checkpoint.entry(matrixNames(this.#names.expert(0))[0]);
    return { format: dtype === 'BF16' ? 'bf16' : dtype === 'F16' ? 'f16' : 'f32' };
  }
}

function mostUsed(frequency: Float64Array, members: readonly number[]): number {
  return members.reduce((best, expert) =>
    (frequency[expert] as number) > (frequency[best] as number) ? expert : best,
  );
}

function matrixNames({ gate, up, down }: MlpNames): [string, string, string] {
  return [`${gate}.weight`, `${up}.weight`, `${down}.weight`];
}

/** gate|up or down of all slots as a bank on the device. */
function loadSlots(
  device: Device,
  slots: readonly ExpertMatrices[],
  which: 'up' | 'down',
  format: WeightFormat,
): Promise<Weight> {
  const { width, hidden } = slots[0] as ExpertMatrices;
  const form = { store: 'f32' } as const;
  const pieces = slots.flatMap(({ gate, up, down }, slot): NativePiece[] =>
    which === 'down'
      ? [{ part: 'base', slot, row: 0, rows: hidden, form, values: down }]
      : [
          { part: 'base', slot, row: 0, rows: width, form, values: gate as Float32Array },
          { part: 'base', slot, row: width, rows: width, form, values: up },
        ],
  );
  const size = which === 'down' ? { in: width, out: hidden } : { in: hidden, out: 2 * width, gated: true };
  return Weight.load(device, { ...size, slots: slots.length, format }, pieces);
}
