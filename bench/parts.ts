/**
 * Banks of parts beside plain ones on one expert layer: time follows the bytes that a step touches with few tokens, and the
 * operations with many. All forms take turns in one loop, and steps go round the slots, so that with all forms about 500 MB pass
 * before a slot comes again. Each figure is
 * the fastest of its rounds: other work on the machine only ever adds.
 *
 *   node --import=tsx bench/parts.ts [--json] [--device cpu] [--threads 2] [--tokens 1,8,64,512] [--mode auto] [--only int4]
 *       [--clock cpu]   processor time of the whole run, for one thread on a busy machine
 *
 * touched: packed bytes of the slots that the tokens of a step choose (a base that slots share counts once), GB/s: of those.
 * operations: multiply and add of all values that are stored, two each. The ratios are against the plain bank of the same
 * store: that of times, of bytes, of operations.
 */
import { parseArgs } from 'node:util';
import {
  Graph,
  openDevice,
  profileOf,
  Weight,
  type WeightFormat,
  type WeightSpec,
  type WeightValues,
} from '../lib/index.ts';

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    device: { type: 'string', default: 'cpu' },
    threads: { type: 'string', default: '2' },
    tokens: { type: 'string', default: '1,8,64,512' },
    mode: { type: 'string', default: 'auto' },
    only: { type: 'string', default: '' },
    clock: { type: 'string', default: 'wall' },
  },
});
const mode = options.mode as 'auto' | 'exact' | 'int8';
// A step of one token touches topK slots: 8 MB of int4.
const [width, out, slots, topK] = [2048, 1536, 16, 4];
const bf16: WeightFormat = { format: 'bf16' };
const int4: WeightFormat = { format: 'int4' };
const dual: WeightFormat = { format: 'int4', dual: true };
const tenth = Math.floor(out / 10);

type Form = Pick<WeightSpec, 'format' | 'lowRank' | 'rows' | 'sparse' | 'baseOf'>;
interface Subject {
  readonly name: string;
  readonly against: string;
  readonly form: Form;
}
// The four slots of a token have two bases.
const baseOf = Array.from({ length: slots }, (_, s) => (s >> 1) & 3);
const all: readonly Subject[] = [
  { name: 'int4', against: 'int4', form: { format: int4 } },
  { name: 'int4 + rank 32', against: 'int4', form: { format: int4, lowRank: { rank: 32 } } },
  {
    name: 'int4 + rank 32 + 10 % rows int4',
    against: 'int4',
    form: { format: int4, lowRank: { rank: 32 }, rows: { count: tenth, format: int4 } },
  },
  { name: '2:4 int4', against: 'int4', form: { sparse: { n: 2, m: 4, format: int4 } } },
  { name: '1:8 int4', against: 'int4', form: { sparse: { n: 1, m: 8, format: int4 } } },
  { name: 'int4 dual', against: 'int4', form: { format: dual } },
  {
    name: 'delta: int4 bases + rank 32',
    against: 'int4',
    form: { format: int4, baseOf, lowRank: { rank: 32 } },
  },
  { name: 'bf16', against: 'bf16', form: { format: bf16 } },
  { name: 'bf16 + rank 32', against: 'bf16', form: { format: bf16, lowRank: { rank: 32 } } },
  {
    name: 'rank 32 + 10 % rows bf16',
    against: 'bf16',
    form: { lowRank: { rank: 32 }, rows: { count: tenth, format: bf16 } },
  },
  { name: '2:4 bf16', against: 'bf16', form: { sparse: { n: 2, m: 4, format: bf16 } } },
  { name: '1:8 bf16', against: 'bf16', form: { sparse: { n: 1, m: 8, format: bf16 } } },
];
const subjects = all.filter(
  ({ name, against }) => !options.only || [name, against].some((one) => options.only.split(',').includes(one)),
);

/** Values that a row is multiplied with in one slot. */
function products({ format, lowRank, rows, sparse }: Form): number {
  return (
    (format ? width * out : 0) +
    (lowRank ? (lowRank.rank as number) * (width + out) : 0) +
    (rows ? (rows.count as number) * width : 0) +
    (sparse ? (width / sparse.m) * sparse.n * out : 0)
  );
}

/** Bytes of the slots of a step: the base of each distinct base slot, and each slot's own other parts. */
function touched(form: Form, whole: number, base: number, chosen: readonly number[]): number {
  if (!form.baseOf) return (whole / slots) * chosen.length;
  const bases = new Set(chosen.map((slot) => form.baseOf?.[slot]));
  const count = Math.max(...form.baseOf) + 1;
  return bases.size * (base / slots) + (chosen.length * (whole - (count * base) / slots)) / slots;
}

const device = await openDevice(options.device, options.device === 'cpu' ? { threads: Number(options.threads) } : {});
/** Token t of a round prefers every fourth slot from t + round on: slots have equally many rows, one token touches topK. */
const chosenBy = (token: number, round: number): number[] =>
  Array.from({ length: topK }, (_, k) => (token + round + k * 4) % slots);

/** Speed does not depend on the values: a few, over and over. */
function valuesOf({ format, lowRank, rows, sparse, baseOf: bases }: Form): WeightValues {
  const some = Float32Array.from({ length: 4099 }, () => Math.random() - 0.5);
  const values = (count: number): Float32Array => {
    const data = new Float32Array(count);
    for (let at = 0; at < count; at += some.length) data.set(some.subarray(0, Math.min(some.length, count - at)), at);
    return data;
  };
  const data: WeightValues = {};
  if (format) data.base = values((bases ? Math.max(...bases) + 1 : slots) * width * out);
  if (lowRank) {
    const rank = lowRank.rank as number;
    data.lowRank = { a: values(slots * width * rank), b: values(slots * out * rank) };
  }
  if (rows) {
    const count = rows.count as number;
    const index = Int32Array.from({ length: slots * count }, (_, i) => (i % count) * 10);
    data.rows = { values: values(slots * count * width), index };
  }
  if (sparse) {
    const { n, m } = sparse;
    const kept = values((slots * out * width * n) / m);
    const index = new Uint8Array(kept.length);
    for (let i = 0; i < index.length; i++) index[i] = (i % n) + (Math.floor(i / n) % (m - n + 1));
    data.sparse = { values: kept, index };
  }
  return data;
}

interface Bench extends Subject {
  readonly bank: Weight;
}
const benches: Bench[] = [];
let baseBytes = 0;
for (const subject of subjects) {
  const spec: WeightSpec = { in: width, out, slots, ...subject.form };
  const bank = await Weight.from(device, spec, valuesOf(subject.form));
  if (subject.name === 'int4') baseBytes = bank.bytes;
  benches.push({ ...subject, bank });
}

const results: Record<string, string | number>[] = [];
for (const tokens of options.tokens.split(',').map(Number)) {
  const x = Float32Array.from({ length: tokens * width }, () => Math.random() - 0.5);
  const choices = Array.from({ length: slots }, (_, round) => {
    const logits = new Float32Array(tokens * slots);
    for (let t = 0; t < tokens; t++) for (const slot of chosenBy(t, round)) logits[t * slots + slot] = 10;
    return logits;
  });
  const chosen = [...new Set(Array.from({ length: tokens }, (_, t) => chosenBy(t, 0)).flat())];
  const into = { y: new Float32Array(tokens * topK * out) };
  const programs = benches.map(({ bank }) => {
    const g = new Graph(device);
    const routing = g.route(g.input('logits', 'f32', ['tokens', slots]), { experts: slots, topK });
    const y = g.linear(g.input('x', 'f32', ['tokens', width]), bank, { routing, mode });
    return g.output('y', y).compile({ tokens });
  });
  const rounds = tokens >= 512 ? 7 : tokens >= 64 ? 21 : 64;
  const times = benches.map((): number[] => []);
  for (let round = 0; round <= rounds; round++) {
    for (const [i, program] of programs.entries()) {
      const logits = choices[round % slots] as Float32Array;
      const before = process.cpuUsage();
      const nodes = profileOf(program.runSync({ x, logits }, { into, profile: true })) ?? [];
      const linear = nodes.find(({ operation }) => operation === 'linear');
      const { user, system } = process.cpuUsage(before);
      if (round > 0 && linear) times[i]?.push(options.clock === 'cpu' ? user + system : linear.microseconds);
    }
  }
  for (const program of programs) program.dispose();
  const row = benches.map(({ name, against, form, bank }, i) => ({
    name,
    against,
    seconds: Math.min(...(times[i] ?? [])) / 1e6,
    bytes: touched(form, bank.bytes, baseBytes, chosen),
    operations: 2 * tokens * topK * products(form),
  }));
  for (const one of row) {
    const plain = row.find(({ name }) => name === one.against) ?? one;
    results.push({
      tokens,
      form: one.name,
      milliseconds: one.seconds * 1e3,
      megabytes: one.bytes / 1e6,
      gigabytesPerSecond: one.bytes / one.seconds / 1e9,
      gigaoperationsPerSecond: one.operations / one.seconds / 1e9,
      timeRatio: one.seconds / plain.seconds,
      byteRatio: one.bytes / plain.bytes,
      operationRatio: one.operations / plain.operations,
    });
  }
}
for (const { bank } of benches) bank.dispose();
device.dispose();

if (options.json) console.log(JSON.stringify({ device: options.device, threads: options.threads, mode, results }));
else {
  console.log('tokens  form                               ms      MB    GB/s   Gop/s   time   bytes     ops');
  for (const one of results) {
    const cell = (key: string, wide: number, digits: number): string =>
      (one[key] as number).toFixed(digits).padStart(wide);
    console.log(
      `${String(one.tokens).padStart(6)}  ${String(one.form).padEnd(32)} ${cell('milliseconds', 6, 3)} ${cell('megabytes', 7, 2)} ` +
        `${cell('gigabytesPerSecond', 7, 1)} ${cell('gigaoperationsPerSecond', 7, 0)} ${cell('timeRatio', 6, 2)}  ${cell('byteRatio', 6, 2)}  ${cell('operationRatio', 6, 2)}`,
    );
  }
}
