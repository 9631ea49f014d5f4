/** One linear layer. */
import type { Device } from '../device/device.ts';
import { Graph } from '../graph/graph.ts';
import type { Program } from '../graph/program.ts';
import { Tensor } from '../tensor/tensor.ts';
import type { ActivationMode } from '../weight/format.ts';
import type { WeightSpec } from '../weight/spec.ts';
import type { Weight } from '../weight/weight.ts';
import { coldBytes, coldCopies, disposeAll, type NamedFormat, operationsOf, randomTensor } from './data.ts';
import type { Group, Subject } from './rows.ts';

export interface DenseOptions {
  readonly in: number;
  readonly out: number;
  readonly tokens: readonly number[];
  readonly weights: readonly NamedFormat[];
  readonly mode?: ActivationMode | undefined;
  readonly warm: boolean;
}

/** A group a format; bytes are those of the weights: inputs and results stay in caches. */
export function denseGroups(device: Device, shape: string, options: DenseOptions): Group[] {
  const { in: width, out, tokens, weights, mode, warm } = options;
  return weights.map(({ text, format }) => {
    const spec: WeightSpec = { in: width, out, format };
    const held: { dispose(): void }[] = [];
    return {
      work: 'dense',
      shape: `${shape} ${width}→${out}`,
      async subjects() {
        const made: Subject[] = [];
        const sets = await coldCopies(device, spec, warm ? 0 : 2 * coldBytes);
        held.push(...sets);
        const { bytes } = sets[0] as Weight;
        for (const count of tokens) {
          const call = await denseCalls(device, sets, count, mode, held);
          made.push({
            tokens: count,
            weights: text,
            cost: { bytes, operations: operationsOf(spec, count, mode) },
            call,
          });
        }
        return made;
      },
      dispose: () => disposeAll(held),
    };
  });
}

async function denseCalls(
  device: Device,
  sets: readonly Weight[],
  tokens: number,
  mode: ActivationMode | undefined,
  held: { dispose(): void }[],
): Promise<(round: number) => void> {
  const { in: width, out } = (sets[0] as Weight).spec;
  const programs = sets.map((weight): Program<string> => {
    const g = new Graph(device);
    const x = g.input('x', 'f32', ['tokens', width]);
    return g.output('y', g.linear(x, weight, { mode })).compile({ tokens });
  });
  const x = await randomTensor(device, [tokens, width]);
  const y = Tensor.empty(device, 'f32', [tokens, out]);
  held.push(...programs, x, y);
  return (round) => {
    programs[round % programs.length]?.runSync({ x }, { into: { y } });
  };
}
