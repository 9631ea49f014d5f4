import { Command } from 'commander';
import { explainDevice } from '../device/explain.ts';
import { devices } from '../device/open.ts';
import { type CommonOptions, openChosenDevice, withCommonOptions } from './options.ts';
import { print, printJson, table } from './output.ts';

/** `node-moe doctor`: the devices with their instruction sets and measured limits, and why there is no GPU. */
export function doctorCommand(): Command {
  return withCommonOptions(new Command('doctor'))
    .description('show the devices, their instruction sets and measured limits, and why no GPU is used')
    .addHelpText('after', '\nExample:\n  $ node-moe doctor --json')
    .action(doctor);
}

/** What a device computes on. A device for tests only is no GPU, even one that runs the GPU's kernels. */
const kinds: Readonly<Record<string, string>> = { cuda: 'GPU', cpu: 'CPU' };

async function doctor(options: CommonOptions): Promise<void> {
  const found = [];
  for (const { name, index } of devices()) {
    using device = await openChosenDevice({ ...options, device: `${name}:${index}` });
    found.push({
      name,
      index,
      kind: kinds[name] ?? 'for tests',
      description: device.description,
      limits: await device.limits(),
    });
  }
  const cuda = explainDevice('cuda');
  const { node, v8 } = process.versions;
  const platform = { node, v8, platform: process.platform, arch: process.arch };
  if (options.json) {
    printJson({ platform, devices: found, cuda });
    return;
  }
  print(`Node ${node}, ${process.platform}-${process.arch}\n`);
  const rows = found.map(({ name, index, kind, description, limits }) => [
    `${name}:${index}`,
    kind,
    String(description.isa ?? '-'),
    String(description.threads ?? '-'),
    limits.readBytesPerSecond > 0 ? `${(limits.readBytesPerSecond / 1e9).toFixed(1)} GB/s` : '-',
    limits.f32OperationsPerSecond > 0 ? `${(limits.f32OperationsPerSecond / 1e9).toFixed(0)} GFLOP/s` : '-',
    limits.int8OperationsPerSecond > 0 ? `${(limits.int8OperationsPerSecond / 1e9).toFixed(0)} GOP/s` : '-',
  ]);
  print(table(['device', 'kind', 'instruction set', 'threads', 'memory read', 'f32', 'int8'], rows));
  if (!cuda.available) {
    print(`\nno GPU (${cuda.reason}): ${cuda.code}: expected ${cuda.expected}, got ${cuda.received}\nfix: ${cuda.fix}`);
  }
}
