/**
 * Banks of parts (low rank, kept rows, n:m sparse, shared bases) beside plain ones on one expert layer: with few tokens time should
 * follow the bytes that a call touches, with many the operations. All forms of a group take turns.
 */
import type { Device } from '../device/device.ts';
import { Graph } from '../graph/graph.ts';
import type { Program } from '../graph/program.ts';
import { Tensor } from '../tensor/tensor.ts';
import { type ActivationMode, formatName, type WeightFormat } from '../weight/format.ts';
import { baseSlots, type WeightSpec } from '../weight/spec.ts';
import type { Weight } from '../weight/weight.ts';
import { coldBytes, coldCopies, disposeAll, type NamedFormat, operationsOf, randomTensor } from './data.ts';
import { choiceTensors, chooseExperts } from './experts.ts';
import { totalOperations } from './limits.ts';
import type { Group, Row, Subject } from './rows.ts';
import { type BenchShape, gated } from './shapes.ts';

export interface PartsOptions {
  readonly tokens: readonly number[];
  /** Of base, kept rows and sparse values; each format is a group, its first form the plain bank. */
  readonly weights: readonly NamedFormat[];
  readonly rank: number;
  readonly mode?: ActivationMode | undefined;
  readonly warm: boolean;
}

type Form = Pick<WeightSpec, 'format' | 'lowRank' | 'rows' | 'sparse' | 'baseOf'>;

function lowRankForms(format: WeightFormat, rank: number, out: number, slots: number): [string, Form][] {
  const name = formatName(format);
  const lowRank = { rank };
  const rows = { count: Math.floor(out / 10), format: partFormat(format) };
  // Neighbours share a base, and one token chooses neighbours.
  const baseOf = Array.from({ length: slots }, (_, slot) => slot >> 1);
  return [
    [name, { format }],
    [`${name} + rank ${rank}`, { format, lowRank }],
    [`${name} + rank ${rank} + 10 % rows`, { format, lowRank, rows }],
    [`rank ${rank} + 10 % rows ${name}`, { lowRank, rows }],
    [`two slots a base ${name} + rank ${rank}`, { format, baseOf, lowRank }],
  ];
}

function sparseForms(format: WeightFormat): [string, Form][] {
  const name = formatName(format);
  const sparse = (n: number, m: number): Form => ({ sparse: { n, m, format: partFormat(format) } });
  return [
    [name, { format }],
    [`2:4 ${name}`, sparse(2, 4)],
    [`1:4 ${name}`, sparse(1, 4)],
    [`1:8 ${name}`, sparse(1, 8)],
  ];
}

/** Kept rows and sparse values have no offsets and no inner scales. */
function partFormat(format: WeightFormat): WeightFormat {
  return 'groupSize' in format || format.format === 'int4' || format.format === 'int8'
    ? { ...format, offset: false, dual: false }
    : format;
}

/** A group a format, on the gate|up bank of a shape. */
export function partGroups(
  device: Device,
  work: 'lowrank' | 'sparse',
  shape: BenchShape,
  { tokens, weights, rank, mode, warm }: PartsOptions,
): Group[] {
  const { hidden: width, intermediate, experts: slots, topK } = shape;
  const out = gated(shape) ? 2 * intermediate : intermediate;
  return weights.map(({ format }): Group => {
    const held: { dispose(): void }[] = [];
    return {
      work,
      shape: `${shape.name} ${width}→${out}`,
      async subjects() {
        const forms = work === 'lowrank' ? lowRankForms(format, rank, out, slots) : sparseForms(format);
        const made: Subject[] = [];
        const banks: { name: string; spec: WeightSpec; copies: Weight[] }[] = [];
        for (const [name, form] of forms) {
          const spec: WeightSpec = { in: width, out, slots, ...form };
          const copies = await coldCopies(device, spec, warm ? 0 : coldBytes);
          held.push(...copies);
          banks.push({ name, spec, copies });
        }
        const plainBytes = banks[0]?.copies[0]?.bytes ?? 0;
        for (const count of tokens) {
          const choices = chooseExperts(shape, count, warm);
          const calls = await choiceTensors(device, choices, count, slots);
          const x = await randomTensor(device, [count, width]);
          const y = Tensor.empty(device, 'f32', [count * topK, out]);
          held.push(...calls, x, y);
          for (const { name, spec, copies } of banks) {
            const programs = copies.map((bank): Program<string> => {
              const g = new Graph(device);
              const routing = g.route(g.input('logits', 'f32', ['tokens', slots]), { experts: slots, topK });
              const rows = g.linear(g.input('x', 'f32', ['tokens', width]), bank, { routing, mode });
              return g.output('y', rows).compile({ tokens: count });
            });
            held.push(...programs);
            const bytes = touchedBytes(spec, copies[0]?.bytes ?? 0, plainBytes, choices.touched);
            made.push({
              tokens: count,
              weights: name,
              against: formatName(format),
              cost: { bytes, operations: operationsOf(spec, count * topK, mode) },
              call(round) {
                const logits = calls[Math.floor(round / copies.length) % calls.length] as Tensor;
                programs[round % copies.length]?.runSync({ x, logits }, { into: { y } });
              },
            });
          }
        }
        return made;
      },
      dispose: () => disposeAll(held),
    };
  });
}

/** Of a call: a base that slots share counts once. `plainBytes`: of the bank that has one base a slot and nothing else. */
function touchedBytes(spec: WeightSpec, bytes: number, plainBytes: number, touched: ReadonlySet<number>): number {
  const { slots = 1, baseOf } = spec;
  if (!baseOf) return (bytes / slots) * touched.size;
  const base = plainBytes / slots;
  const others = (bytes - baseSlots(spec) * base) / slots;
  return new Set([...touched].map((slot) => baseOf[slot])).size * base + touched.size * others;
}

export interface Ratios {
  readonly time: number;
  readonly bytes: number;
  readonly operations: number;
}

/** A row over the plain bank of its group; undefined for other rows. */
export function partRatios(row: Row, rows: readonly Row[]): Ratios | undefined {
  const plain = rows.find(
    ({ work, shape, tokens, weights }) =>
      work === row.work && shape === row.shape && tokens === row.tokens && weights === row.against,
  );
  if (!plain) return undefined;
  const operations = totalOperations(row.operations) / totalOperations(plain.operations);
  return { time: row.ms / plain.ms, bytes: row.bytes / plain.bytes, operations };
}
