import { Command } from 'commander';
import { Checkpoint } from '../checkpoint/checkpoint.ts';
import { compressedSection } from '../checkpoint/compressed.ts';
import type { LayerConfig } from '../model/decoder-config.ts';
import { familyOf } from '../model/family.ts';
import { checkTensors } from '../model/weights.ts';
import { type CommonOptions, withCommonOptions } from './options.ts';
import { megabytes, print, printJson, table } from './output.ts';

/** `node-moe inspect`: what is in a model folder, without loading it. */
export function inspectCommand(): Command {
  return withCommonOptions(new Command('inspect'))
    .description('check a model folder, show its family, layers, sizes and formats')
    .argument('<folder>', 'model folder')
    .addHelpText('after', '\nExample:\n  $ node-moe inspect ./model')
    .action(inspect);
}

interface Kind {
  kind: string;
  tensors: number;
  elements: number;
  bytes: number;
  dtypes: string[];
}

async function inspect(folder: string, options: CommonOptions): Promise<void> {
  await using checkpoint = await Checkpoint.open(folder);
  const { config: read, names } = familyOf(checkpoint.config);
  const config = read(checkpoint.config);
  checkTensors(checkpoint, config, names);
  const section = compressedSection(checkpoint.config);
  const made = section && {
    madeBy: section.madeBy,
    recipe: section.recipe,
    weights: section.weights,
    groups: Object.fromEntries([...section.layers].map(([layer, { groups }]) => [layer, groups])),
  };
  const kinds = kindsOf(checkpoint);
  if (options.json) {
    printJson({ folder, bytes: checkpoint.bytes, config, compressed: made ?? null, tensors: kinds });
    return;
  }
  const { family, layers, hidden, vocabulary, context } = config;
  print(`${folder}: ${family}, ${megabytes(checkpoint.bytes)}`);
  print(`${layers.length} layers, hidden ${hidden}, vocabulary ${vocabulary}, context ${context}`);
  for (const line of layerLines(layers)) print(line);
  if (made) print(`compressed by ${made.madeBy}: ${JSON.stringify(made.recipe)}`);
  const rows = kinds.map((kind) => [
    kind.kind,
    String(kind.tensors),
    String(kind.elements),
    megabytes(kind.bytes),
    kind.dtypes.join(' '),
  ]);
  print(`\n${table(['tensors', 'count', 'elements as stored', 'bytes', 'dtypes'], rows)}`);
}

/** What the layers are, one line for each stretch of equal ones. */
function layerLines(layers: readonly LayerConfig[]): string[] {
  const texts = layers.map(({ block }) => {
    if (block.kind === 'dense') return `dense, width ${block.width}`;
    const { router, width, merged, sharedWidth } = block.moe;
    const shared = sharedWidth > 0 ? `, shared expert of width ${sharedWidth}` : '';
    const groups = merged ? ` merged to ${merged.groups}` : '';
    return `${router.experts} experts${groups} of width ${width}, top ${router.topK}${shared}`;
  });
  const starts = [...texts.keys()].filter((index) => index === 0 || texts[index] !== texts[index - 1]);
  return starts.map((start, at) => {
    const end = (starts[at + 1] ?? texts.length) - 1;
    return `layer${end > start ? `s ${start}–${end}` : ` ${start}`}: ${texts[start]}`;
  });
}

function kindsOf(checkpoint: Checkpoint): Kind[] {
  const kinds = new Map<string, Kind>();
  for (const entry of checkpoint.tensors.values()) {
    const name = kindOf(entry.name);
    const kind = kinds.get(name) ?? { kind: name, tensors: 0, elements: 0, bytes: 0, dtypes: [] };
    kind.tensors++;
    kind.elements += entry.shape.reduce((product, size) => product * size, 1);
    kind.bytes += entry.end - entry.begin;
    if (!kind.dtypes.includes(entry.dtype)) kind.dtypes.push(entry.dtype);
    kinds.set(name, kind);
  }
  return [...kinds.values()];
}

function kindOf(name: string): string {
  if (/\.experts\.\d+\./.test(name)) return 'experts';
  if (/shared_expert/.test(name)) return 'shared experts';
  if (/self_attn|attention/.test(name)) return 'attention';
  if (/embed|lm_head/.test(name)) return 'embedding and head';
  if (/norm/.test(name)) return 'norms';
  if (/\.mlp\.(gate|up|down)_proj\./.test(name)) return 'dense blocks';
  if (/\.gate\.weight$/.test(name)) return 'routers';
  return 'other';
}
