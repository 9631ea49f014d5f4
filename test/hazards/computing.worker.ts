/** A worker that computes: `workerData` is { runs, name }; posts 'ready', then the checksum. No top-level await: it is required. */
import { parentPort, workerData } from 'node:worker_threads';
import { openDevice } from '../../lib/index.ts';
import { longProgram } from '../facade/support.ts';

async function compute({ runs, name }: { runs: number; name: string }): Promise<void> {
  const device = await openDevice(name, name === 'cpu' ? { threads: 2 } : {});
  const { program, x } = await longProgram(device, { size: 96, depth: 30, tokens: 32 });
  parentPort?.postMessage('ready');
  let sum = 0;
  for (let run = 0; run < runs; run++) {
    const { y } = await program.run({ x }, { into: { y: new Float32Array(x.length) } });
    sum = y.reduce((total, value) => total + value, 0);
  }
  parentPort?.postMessage(sum);
}

void compute(workerData as { runs: number; name: string });
