// A whole model beside node-llama-cpp and transformers.js on the same weights: prefill of a prompt, and a token decoded behind it.
import { existsSync } from 'node:fs';
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { modelCost } from '../../lib/bench/model.ts';
import { writeRandomModel } from '../../lib/bench/random-model.ts';
import { median } from '../../lib/bench/rows.ts';
import { benchShape, shapeNames } from '../../lib/bench/shapes.ts';
import { Model } from '../../lib/index.ts';
import { writeGguf } from './gguf.mjs';
import { onnxForms, writeOnnx } from './onnx-export.mjs';
import { rest, watchOthers } from './rest.mjs';

const decodedTokens = 32;
const layers = 4;
const [fewestRounds, mostRounds, secondsEach, longMs] = [3, 7, 3, 100];
/** What stands beside a format of ours. */
const ggufFormats = { bf16: 'bf16', int8: 'q8_0', int4: 'q4_0' };
const onnxBits = { int8: 8, int4: 4 };
/**
 * As bf16 has no rounding that others lack, first tokens agree. With integers of so many bits the logits of most prompts point the same
 * way; behind some, rounding sends a token to another expert.
 */
const leastCosine = { 8: 0.999, 4: 0.95 };
const checkedPrompts = 9;

/**
 * The files of one model in `files`, written where they are not there yet: `folder`, ours, and what peers read. `model`: a folder, or
 * the name of a shape, of which four layers of random weights are made.
 */
export async function prepareModel(model, weights, files) {
  const random = shapeNames.includes(model);
  const name = random ? `${model}, ${layers} layers` : model;
  const own = join(files, random ? model : model.replaceAll('/', '-'));
  await mkdir(own, { recursive: true });
  const folder = random ? join(own, 'folder') : model;
  if (random) {
    await once(folder, async (path) => {
      await mkdir(path);
      await writeRandomModel(path, benchShape(model), layers);
    });
  }
  const forms = [];
  for (const one of weights) {
    const { format } = one.format;
    const gguf = join(own, `${format}.gguf`);
    await once(gguf, (path) => writeGguf(folder, path, ggufFormats[format]));
    const bits = onnxBits[format];
    const onnx = bits && join(own, `onnx-${bits}`);
    if (onnx) await once(onnx, (path) => writeOnnx(folder, path, bits));
    forms.push({ one, gguf, onnx });
  }
  return { name, folder, files: own, forms };
}

/** Half a file is never found by a later run. */
async function once(path, write) {
  if (existsSync(path)) return;
  console.error(`write ${path}`);
  await write(`${path}.partial`);
  await rename(`${path}.partial`, path);
}

/** Rows of a prepared model for each format: 1 token decoded, and a prompt of each other number of tokens. */
export async function modelRows(device, { name, folder, files, forms }, tokens, threads) {
  const timed = [];
  for (const { one, gguf, onnx } of forms) {
    const { format } = one.format;
    const ours = await Model.open(folder, { device, weights: { ...one.format, attention: one.format } });
    const peers = [
      ...(await llamaPeers(gguf, ggufFormats[format], threads)),
      ...(onnx ? [await transformersPeer(files, onnx, onnxBits[format], threads)] : []),
    ];
    const random = (length) =>
      Int32Array.from({ length }, () => 1 + Math.floor(Math.random() * (ours.config.vocabulary - 1)));
    const prompts = Array.from({ length: checkedPrompts }, () => random(16));
    for (const peer of peers) await peer.check?.(ours, prompts);
    const subjects = [{ run: (prompt, count, onToken) => generateOurs(ours, prompt, count, onToken) }, ...peers];
    for (const count of tokens) {
      console.error(`model ${name}, ${one.text}, ${count} tokens`);
      const others = watchOthers();
      const times = await timeSubjects(subjects, random(count === 1 ? 128 : count), count, format === 'bf16');
      const [ms, ...theirs] = times.map(median);
      const figures = peers.map((peer, at) => ({ name: peer.name, format: peer.format, ms: theirs[at] }));
      const cost = modelCost(ours, one.format, count);
      const row = { work: 'model', shape: name, tokens: count, weights: one.text, ms, ...cost };
      timed.push({ ...row, othersBusy: others(), peers: figures });
    }
    for (const peer of peers) await peer.dispose();
    await ours.dispose();
  }
  return timed;
}

/** Milliseconds of each round of each subject, in turn: to the first token, or of each one after it where `count` is 1. */
async function timeSubjects(subjects, prompt, count, exact) {
  const times = subjects.map(() => []);
  const first = [];
  const begin = performance.now();
  const fits = () => performance.now() - begin < 1000 * secondsEach * subjects.length;
  for (let round = -1; round < fewestRounds || (round < mostRounds && fits()); round++) {
    for (const [at, { run }] of subjects.entries()) {
      const generate = () => timeTokens(run, prompt, count === 1 ? decodedTokens + 1 : 1);
      await rest();
      if (!(times[at].at(-1) > longMs)) await generate(); // wakes threads and clocks
      const { id, prefill, decode } = await generate();
      first[at] = id;
      if (round >= 0) times[at].push(count === 1 ? decode : prefill);
    }
  }
  if (exact && new Set(first).size > 1) throw new Error(`first tokens differ: ${first}`);
  return times;
}

/** The first token, milliseconds to it, and of each one after it. */
async function timeTokens(run, prompt, count) {
  const started = performance.now();
  let [first, made, id] = [started, 0, undefined];
  await run(prompt, count, (token) => {
    if (made++ > 0) return;
    first = performance.now();
    id = token;
  });
  if (made !== count) throw new Error(`${made} tokens in place of ${count}`);
  return { id, prefill: first - started, decode: (performance.now() - first) / Math.max(1, count - 1) };
}

async function generateOurs(model, prompt, count, onToken) {
  for await (const { id } of model.generate(prompt, { maxTokens: count, stopAtEos: false })) onToken(id);
}

/** With one thread and with all: where others share the cores, a barrier waits a time slice for a thread that does not run. */
async function llamaPeers(modelPath, format, threads) {
  const { getLlama, LlamaLogLevel } = await import('node-llama-cpp');
  const llama = await getLlama({ gpu: false, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: threads });
  const model = await llama.loadModel({ modelPath });
  const peers = [];
  for (const count of new Set([1, threads])) {
    const context = await model.createContext({ contextSize: 1024, batchSize: 512, threads: count });
    const sequence = context.getSequence();
    peers.push({
      name: 'node-llama-cpp',
      format: `${format}, ${count === 1 ? 'one thread' : `${count} threads`}`,
      async run(prompt, wanted, onToken) {
        await sequence.clearHistory();
        let made = 0;
        for await (const id of sequence.evaluate([...prompt], { temperature: 0 })) {
          onToken(id);
          if (++made === wanted) return;
        }
      },
      dispose: () => context.dispose(),
    });
  }
  peers.at(-1).dispose = async () => {
    await llama.dispose();
  };
  return peers;
}

async function transformersPeer(root, folder, bits, threads) {
  process.env.ORT_USE_MLAS_Q4_GEMM_MOE = '1';
  const { AutoModelForCausalLM, env, Tensor } = await import('@huggingface/transformers');
  env.allowRemoteModels = false;
  env.localModelPath = root;
  const { dtype } = onnxForms[bits];
  const model = await AutoModelForCausalLM.from_pretrained(folder.slice(root.length + 1), {
    dtype,
    device: 'cpu',
    session_options: { intraOpNumThreads: threads, interOpNumThreads: 1 },
  });
  const inputs = (prompt) => ({
    input_ids: new Tensor('int64', BigInt64Array.from(prompt, BigInt), [1, prompt.length]),
    attention_mask: new Tensor('int64', new BigInt64Array(prompt.length).fill(1n), [1, prompt.length]),
  });
  return {
    name: 'transformers.js',
    format: `${dtype}, block 32`,
    async run(prompt, count, onToken) {
      let isPrompt = true;
      const put = ([ids]) => {
        if (isPrompt) isPrompt = false;
        else onToken(Number(ids[0]));
      };
      await model.generate({ ...inputs(prompt), max_new_tokens: count, do_sample: false, streamer: { put, end() {} } });
    },
    async check(ours, prompts) {
      const cosines = [];
      for (const prompt of prompts) {
        const { logits } = await model(inputs(prompt));
        const { data } = await ours.logits(prompt);
        const { vocabulary } = ours.config;
        cosines.push(cosine(data.subarray(-vocabulary), logits.data.subarray(-vocabulary)));
      }
      const similarity = median(cosines);
      if (!(similarity > leastCosine[bits]))
        throw new Error(`transformers.js: other logits than ours (cosine ${similarity})`);
      console.error(`transformers.js ${dtype}: cosine of the logits with ours ${similarity.toFixed(5)} (median)`);
    },
    dispose: () => model.dispose(),
  };
}

function cosine(a, b) {
  let [product, left, right] = [0, 0, 0];
  for (const [at, value] of a.entries()) {
    product += value * b[at];
    left += value * value;
    right += b[at] * b[at];
  }
  return product / Math.sqrt(left * right);
}
