/** The experts of a layer with their routing: route, gate|up, activation, down, combine, as a model runs them. */
import type { Device } from '../device/device.ts';
import { Graph } from '../graph/graph.ts';
import type { Program } from '../graph/program.ts';
import { Tensor } from '../tensor/tensor.ts';
import { expertBank } from '../weight/bank.ts';
import type { ActivationMode } from '../weight/format.ts';
import type { WeightSpec } from '../weight/spec.ts';
import { coldBytes, disposeAll, type NamedFormat, operationsOf, randomTensor, randomWeight } from './data.ts';
import type { Group, Subject } from './rows.ts';
import { type BenchShape, gated } from './shapes.ts';

export interface ExpertsBenchOptions {
  readonly tokens: readonly number[];
  readonly weights: readonly NamedFormat[];
  readonly mode?: ActivationMode | undefined;
  readonly warm: boolean;
  /** By tokens a call. Default: random ones. */
  readonly choices?: ReadonlyMap<number, Choices> | undefined;
}

/** A group a format. Bytes are those of the experts that the tokens of a call choose. */
export function expertGroups(device: Device, shape: BenchShape, options: ExpertsBenchOptions): Group[] {
  const { hidden, intermediate, experts } = shape;
  const { tokens, weights, mode, warm } = options;
  return weights.map(({ text, format }) => {
    const isGated = gated(shape);
    const up: WeightSpec = {
      in: hidden,
      out: intermediate * (isGated ? 2 : 1),
      slots: experts,
      gated: isGated,
      format,
    };
    const down: WeightSpec = { in: intermediate, out: hidden, slots: experts, format };
    const held: { dispose(): void }[] = [];
    return {
      work: 'experts',
      shape: shape.name,
      async subjects() {
        const layers = [await bank(device, shape, up, down)];
        const bytes = layers[0]?.bytes ?? 0;
        held.push(...layers);
        // Calls go round the layers, and in a layer round its experts.
        const count = warm ? 1 : Math.ceil((2 * coldBytes) / bytes);
        while (layers.length < count) {
          const layer = await bank(device, shape, up, down);
          layers.push(layer);
          held.push(layer);
        }
        const made: Subject[] = [];
        for (const each of tokens) {
          const choices = options.choices?.get(each) ?? chooseExperts(shape, each, warm);
          const calls = await choiceTensors(device, choices, each, experts);
          const x = await randomTensor(device, [each, hidden]);
          const y = Tensor.empty(device, 'f32', [each, hidden]);
          const programs = layers.map((layer): Program<string> => {
            const g = new Graph(device);
            const { topK, renormalize } = shape;
            const routing = g.route(g.input('logits', 'f32', ['tokens', experts]), { experts, topK, renormalize });
            return g
              .output('y', g.experts(g.input('x', 'f32', ['tokens', hidden]), routing, layer, { mode }))
              .compile({ tokens: each });
          });
          held.push(...programs, ...calls, x, y);
          const [first, second] = [up, down].map((spec) => operationsOf(spec, each * shape.topK, mode));
          made.push({
            tokens: each,
            weights: text,
            cost: {
              bytes: (bytes / experts) * choices.touched.size,
              operations: {
                f32: (first?.f32 ?? 0) + (second?.f32 ?? 0),
                bf16: (first?.bf16 ?? 0) + (second?.bf16 ?? 0),
                int8: (first?.int8 ?? 0) + (second?.int8 ?? 0),
              },
            },
            call(round) {
              const logits = calls[Math.floor(round / layers.length) % calls.length] as Tensor;
              programs[round % layers.length]?.runSync({ x, logits }, { into: { y } });
            },
          });
        }
        return made;
      },
      dispose: () => disposeAll(held),
    };
  });
}

async function bank(device: Device, { kind }: BenchShape, up: WeightSpec, down: WeightSpec) {
  return expertBank({ kind, up: await randomWeight(device, up), down: await randomWeight(device, down) });
}

export interface Choices {
  /** [tokens, experts] of calls one after the other: the same choices, moved on by `topK` experts each time. */
  readonly logits: readonly Float32Array[];
  /** [tokens, topK], what each of them chooses. */
  readonly ids: readonly Int32Array[];
  /** Experts that some token of the first call chooses; later calls choose as many. */
  readonly touched: ReadonlySet<number>;
}

/** Random choices, all experts alike; one token chooses neighbours, so that the next call finds none of them in a cache. */
export function chooseExperts(
  { experts, topK }: Pick<BenchShape, 'experts' | 'topK'>,
  tokens: number,
  warm: boolean,
): Choices {
  const chosen = Array.from({ length: tokens }, () => {
    if (tokens === 1) return Array.from({ length: topK }, (_, k) => k);
    const all = Array.from({ length: experts }, (_, expert) => expert);
    return Array.from({ length: topK }, () => all.splice(Math.floor(Math.random() * all.length), 1)[0] as number);
  }).flat();
  const calls = warm ? 1 : Math.ceil(experts / topK);
  const ids = Array.from({ length: calls }, (_, call) =>
    Int32Array.from(chosen, (expert) => (expert + call * topK) % experts),
  );
  const logits = ids.map((own) => {
    const data = new Float32Array(tokens * experts);
    // The first choice scores best.
    own.forEach((expert, at) => {
      data[Math.floor(at / topK) * experts + expert] = 10 - (at % topK) / topK;
    });
    return data;
  });
  return { logits, ids, touched: new Set(chosen) };
}

/** The logits of each call on the device. */
export function choiceTensors(device: Device, { logits }: Choices, tokens: number, experts: number): Promise<Tensor[]> {
  return Promise.all(logits.map((data) => Tensor.from(device, data, { dtype: 'f32', shape: [tokens, experts] })));
}
