/** Operations that are timed alone. Bytes and operations are the core's own count where a case has none. */
import type { Device } from '../device/device.ts';
import { Graph } from '../graph/graph.ts';
import { profileOf } from '../graph/profile.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { disposeAll, setsFor } from './data.ts';
import type { Cost } from './limits.ts';
import type { Group } from './rows.ts';

type Inputs = Record<string, Tensor>;

/** One graph with the inputs of one set. */
export interface Case {
  readonly name: string;
  readonly tokens: number;
  build(g: Graph): void;
  /** What a call reads and the next call finds elsewhere. */
  inputs(): Promise<Inputs>;
  /** Absent: the core's count of all nodes. */
  readonly cost?: Cost;
}

export function caseGroups(
  device: Device,
  work: string,
  shape: string,
  cases: readonly Case[],
  warm: boolean,
): Group[] {
  return cases.map((one) => {
    const held: { dispose(): void }[] = [];
    return {
      work,
      shape,
      async subjects() {
        const graph = new Graph(device);
        one.build(graph);
        const program = graph.compile({ tokens: one.tokens });
        held.push(program);
        const sets: { inputs: Inputs; into: Record<string, Tensor> }[] = [];
        const add = async (): Promise<void> => {
          const inputs = await one.inputs();
          // The first run makes the outputs of its set: later ones write there.
          const into = program.runSync(inputs) as Record<string, Tensor>;
          held.push(...Object.values(inputs), ...Object.values(into));
          sets.push({ inputs, into });
        };
        await add();
        const [{ inputs, into }] = sets as [(typeof sets)[0]];
        const bytes = [...Object.values(inputs), ...Object.values(into)].reduce((sum, tensor) => sum + tensor.bytes, 0);
        while (sets.length < setsFor(bytes, warm)) await add();
        const nodes = profileOf(program.runSync(inputs, { into, profile: true })) ?? [];
        const sum = (of: 'bytes' | 'operations'): number => nodes.reduce((total, node) => total + node[of], 0);
        const cost = one.cost ?? { bytes: sum('bytes'), operations: { f32: sum('operations') } };
        const call = (round: number): void => {
          const set = sets[round % sets.length] as (typeof sets)[0];
          program.runSync(set.inputs, { into: set.into });
        };
        return [{ tokens: one.tokens, weights: one.name, cost, call }];
      },
      dispose: () => disposeAll(held),
    };
  });
}
