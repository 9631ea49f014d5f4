/**
 * Gradients of a whole model's loss by the matrices of its experts. Forward, every layer's input is kept; back, one layer after the other
 * is run again from there, so that the weights and the gradients of one layer are in memory at a time.
 */

import type { Device } from '../../device/device.ts';
import { MoeError } from '../../errors.ts';
import type { ExpertLayer, PartForms } from '../experts.ts';
import type { Source } from '../source.ts';
import { LayerStream } from '../statistics/layer-stream.ts';
import { leaveWith } from '../statistics/leave.ts';
import { attentionGradient } from './attention.ts';
import { blockGradient } from './block.ts';
import type { ExpertGradients } from './experts.ts';
import { headGradient } from './head.ts';

const f32 = { format: 'f32' } as const;
const floats: PartForms = { dense: f32, factors: f32, kept: f32, sparse: f32 };

export interface ModelGradientOptions {
  /** The experts of each MoE layer, by its index; asked for forward and back. */
  readonly experts: (index: number) => Promise<ExpertLayer>;
  /** Gets the gradients of each MoE layer's dense matrices, slot by slot, from the last layer to the first. */
  readonly visit: (index: number, slots: readonly ExpertGradients[]) => void;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The mean cross-entropy of the tokens behind the first of one window, in nats, and its gradients. The choice of experts is taken as fixed;
 * their gates are not.
 *
 * @param ids two tokens or more
 * @throws MoeError UNSUPPORTED as {@link requireDifferentiable}
 */
export async function modelGradients(
  device: Device,
  source: Source,
  ids: Int32Array,
  { experts, visit, signal }: ModelGradientOptions,
): Promise<number> {
  requireDifferentiable(source);
  const { checkpoint, config, family } = source;
  const inputs: { readonly hidden: Float32Array; readonly middle: Float32Array }[] = [];
  const stream = new LayerStream(device, checkpoint, family, [ids], signal);
  const state = (): { middle: Float32Array; hidden: Float32Array } => {
    const [only] = stream.states();
    return only as { middle: Float32Array; hidden: Float32Array };
  };
  try {
    await stream.embed();
    for (const [index, { block }] of config.layers.entries()) {
      const { hidden } = state();
      await stream.enter(index);
      inputs.push({ hidden, middle: state().middle });
      if (block.kind === 'moe') {
        // In floats, as back: what a layer is stored as comes later.
        const layer = { ...(await experts(index)), forms: { up: floats, down: floats } };
        await leaveWith(stream, layer, block.moe, family.names.layer(index).moe);
      } else {
        await stream.leave();
      }
    }
    const { loss, gradient: last } = await headGradient(checkpoint, config, family.names, ids, state().hidden);
    let gradient = last;
    for (const [index, { block, window }] of [...config.layers.entries()].reverse()) {
      signal?.throwIfAborted();
      const { hidden, middle } = inputs.pop() as (typeof inputs)[0];
      const names = family.names.layer(index);
      const o = { device, source: checkpoint, names, epsilon: config.epsilon, x: middle, gradient };
      const back = await blockGradient(block, block.kind === 'moe' ? await experts(index) : undefined, o);
      if (block.kind === 'moe') visit(index, back.slots);
      // Nothing stands before the first layer's experts.
      if (index > 0) gradient = await attentionGradient(checkpoint, config, { names, window }, hidden, back.gradient);
    }
    return loss;
  } finally {
    stream.dispose();
  }
}

/** Throws UNSUPPORTED where the model has experts that are not SwiGLU, or routers that are not softmax. */
export function requireDifferentiable({ config }: Pick<Source, 'config'>): void {
  const routers = config.layers.flatMap(({ block }) => (block.kind === 'moe' ? [block.moe.router.score] : []));
  const received = [config.kind, ...routers].find((part) => part !== 'swiglu' && part !== 'softmax');
  if (received === undefined) return;
  throw new MoeError('UNSUPPORTED', {
    argument: 'importance',
    expected: 'swiglu experts and softmax routers',
    received,
  });
}
