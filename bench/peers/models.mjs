// A whole model beside node-llama-cpp on the same weights: prefill of a prompt, and a token decoded behind it.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getLlama, LlamaLogLevel } from 'node-llama-cpp';
import { modelCost } from '../../lib/bench/model.ts';
import { median } from '../../lib/bench/rows.ts';
import { Model } from '../../lib/index.ts';
import { writeGguf } from './gguf.mjs';

const decodedTokens = 32;
const rounds = 7;
/** What stands beside a format of ours. */
const ggufFormats = { bf16: 'bf16', int8: 'q8_0', int4: 'q4_0' };

/** Rows of `folder` for each format: 1 token decoded, and a prompt of each other number of tokens. */
export async function modelRows(device, folder, weights, tokens, threads) {
  const scratch = await mkdtemp(join(tmpdir(), 'node-moe-gguf-'));
  const llama = await getLlama({ gpu: false, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: threads });
  const timed = [];
  try {
    for (const one of weights) {
      const { format } = one.format;
      const path = join(scratch, `${format}.gguf`);
      await writeGguf(folder, path, ggufFormats[format]);
      const ours = await Model.open(folder, { device, weights: { ...one.format, attention: one.format } });
      const theirs = await llama.loadModel({ modelPath: path });
      // Where others share the cores, its barriers wait a time slice for a thread that does not run: one thread may be faster.
      const contexts = [];
      for (const count of new Set([1, threads])) {
        contexts.push(await theirs.createContext({ contextSize: 1024, batchSize: 512, threads: count }));
      }
      const runs = [
        (prompt, count) => ours.generate(prompt, { maxTokens: count, stopAtEos: false }),
        ...contexts.map((context) => {
          const sequence = context.getSequence();
          return async function* evaluate(prompt, count) {
            await sequence.clearHistory();
            let made = 0;
            for await (const id of sequence.evaluate([...prompt], { temperature: 0 })) {
              yield { id };
              if (++made === count) return;
            }
          };
        }),
      ];
      for (const count of tokens) {
        console.error(`model ${folder}, ${one.text}, ${count} tokens`);
        const length = count === 1 ? 128 : count;
        const prompt = Int32Array.from({ length }, () => 1 + Math.floor(Math.random() * (ours.config.vocabulary - 1)));
        const times = runs.map(() => []);
        const first = [];
        for (let round = -1; round < rounds; round++) {
          for (const [at, run] of runs.entries()) {
            const { ids, prefill, decode } = await timeTokens(run(prompt, count === 1 ? decodedTokens + 1 : 1));
            first[at] = ids[0];
            if (round >= 0) times[at].push(count === 1 ? decode : prefill);
          }
        }
        if (format === 'bf16' && new Set(first).size > 1) throw new Error(`first tokens differ: ${first}`);
        const [ms, ...others] = times.map(median);
        const peers = contexts.map(({ currentThreads }, at) => ({
          name: 'node-llama-cpp',
          format: `${ggufFormats[format]}, ${currentThreads} threads`,
          ms: others[at],
        }));
        timed.push({
          work: 'model',
          shape: folder,
          tokens: count,
          weights: one.text,
          ms,
          ...modelCost(ours, one.format, count),
          peers,
        });
      }
      for (const context of contexts) await context.dispose();
      await theirs.dispose();
      await ours.dispose();
    }
  } finally {
    await llama.dispose();
    await rm(scratch, { recursive: true });
  }
  return timed;
}

/** Milliseconds to the first token, and of each one after it. */
async function timeTokens(tokens) {
  const started = performance.now();
  let first = started;
  const ids = [];
  for await (const { id } of tokens) {
    if (ids.length === 0) first = performance.now();
    ids.push(id);
  }
  return { ids, prefill: first - started, decode: (performance.now() - first) / Math.max(1, ids.length - 1) };
}
