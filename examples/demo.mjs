// The main job, end to end, on the shipped model: evaluate, compress, evaluate again, generate, report. Run: npm run demo
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { megabytes, Progress, table } from '../dist/cli/output.js';
import { renderReport } from '../dist/compress/report/report.js';
import { compress, Model, openDevice } from '../dist/index.js';

const source = fileURLToPath(new URL('models/tiny-qwen3-moe', import.meta.url));
const texts = fileURLToPath(new URL('text/', import.meta.url));
const output = fileURLToPath(new URL('../demo-output/', import.meta.url));
const merged = `${output}tiny-qwen3-moe-merged`;
const mergedPlain = `${output}tiny-qwen3-moe-merged-without-refit`;
const factorized = `${output}tiny-qwen3-moe-mc-smoe`;
const prompt = 'export interface ';

const started = performance.now();
const progress = new Progress();
const device = await openDevice('cpu');
const names = await readdir(texts);
const evaluateTexts = await Promise.all(
  names.filter((name) => name.includes('.evaluate.')).map((name) => readFile(texts + name, 'utf8')),
);
const calibrate = names.filter((name) => name.includes('.calibrate.')).map((name) => texts + name);
await mkdir(output, { recursive: true });
process.stdout.write(
  `node-moe demo: ${device.name}, ${device.description.isa}, ${device.description.threads} of ${availableParallelism()} cores\n`,
);
if (device.reason) process.stdout.write(`(no GPU: ${device.reason})\n`);

const rows = [];
rows.push(await measure('original, bf16', source, undefined, true));
rows.push(await measure('int8 experts', source, { format: 'int8' }));
rows.push(await measure('int4 experts', source, { format: 'int4' }));

const options = { groups: 8, calibrate, weights: { format: 'int4' }, device, force: true, onProgress: show };
const result = await compress(source, { ...options, out: merged });
rows.push(await measure('merged 16 → 8, int4', merged, undefined, true));
await compress(source, { ...options, out: mergedPlain, recover: 'none' });
rows.push(await measure('the same without refit', mergedPlain));
const { weights: _, ...plain } = options;
await compress(source, { ...plain, recipe: 'mc-smoe', rank: 32, rows: 0.1, out: factorized });
rows.push(await measure('mc-smoe: 8 groups, rank 32 + 10 % rows, bf16', factorized));
progress.end();
device.dispose();

const heads = ['model', 'disk', 'memory', 'NLL', 'perplexity', 'prefill tokens/s', 'decode tokens/s'];
const cells = rows.map(({ name, bytes, nll, prefill, decode }) => [
  name,
  megabytes(bytes.disk),
  megabytes(bytes.memory),
  nll.toFixed(4),
  Math.exp(nll).toFixed(2),
  prefill.toFixed(0),
  decode.toFixed(0),
]);
process.stdout.write(`\n${table(heads, cells)}\n`);
const report = `${output}report.html`;
const title = 'tiny-qwen3-moe: 16 → 8 experts a layer, MC-SMoE merge with refit, int4';
await writeFile(report, renderReport({ title, recipe: result.recipe, layers: result.layers, models: rows }));
process.stdout.write(
  `\nreport: ${report}\nmodel:  ${merged}\n${((performance.now() - started) / 1000).toFixed(1)} s\n`,
);

function show({ phase, done, total }) {
  progress.update(phase, done, total);
}

/** Evaluates a folder on all texts and times its generation; prints what it writes where `sample` is set. */
async function measure(name, folder, weights, sample = false) {
  const model = await Model.open(folder, { device, ...(weights && { weights }) });
  try {
    let [tokens, sum, seconds] = [0, 0, 0];
    for (const [index, text] of evaluateTexts.entries()) {
      const ids = model.tokenizer.encode(text);
      const from = performance.now();
      const onProgress = ({ done, total }) =>
        show({ phase: `evaluate: ${name}`, done: index * total + done, total: evaluateTexts.length * total });
      const result = await model.evaluate(ids, { onProgress });
      seconds += (performance.now() - from) / 1000;
      tokens += result.tokens;
      sum += result.nll * result.tokens;
    }
    progress.end();
    if (sample) process.stdout.write(`\n${name}: ${prompt}`);
    let [count, first, last] = [0, 0, 0];
    for await (const { text } of model.generate(prompt, { maxTokens: 64, temperature: 0 })) {
      last = performance.now();
      if (count++ === 0) first = last;
      if (sample) process.stdout.write(text);
    }
    if (sample) process.stdout.write('\n');
    const bytes = { disk: model.bytes, memory: model.memory().total };
    return { name, bytes, nll: sum / tokens, prefill: tokens / seconds, decode: (1000 * (count - 1)) / (last - first) };
  } finally {
    await model.dispose();
  }
}
