// Prints files of `npm run bench:peers -- --json FILE` as one table: each peer program by its fastest form, and the ratio to the
// fastest of all. Whole models in tokens a second, all else in milliseconds.
//
//   node bench/peers/table.mjs FILE…
import { readFile } from 'node:fs/promises';

const documents = await Promise.all(
  process.argv.slice(2).map(async (path) => JSON.parse(await readFile(path, 'utf8'))),
);
const rows = documents.flatMap((document) => document.rows);
const programs = [...new Set(rows.flatMap(({ peers }) => peers.map(({ name }) => name)))];
const digits = (value) => (value >= 1000 ? String(Math.round(value)) : value.toPrecision(3));
const figure = ({ work, tokens }, ms) => digits(work === 'model' ? (1000 * tokens) / ms : ms);
const fastest = (peers) => peers.reduce((best, peer) => (peer.ms < best.ms ? peer : best));

const line = (cells) => console.log(`| ${cells.join(' | ')} |`);
const heads = ['work', 'weights', 'tokens', 'ours', 'share of the limit', ...programs, 'ratio', 'others busy'];
line(heads);
line(heads.map(() => '---'));
for (const row of rows) {
  const { work, shape, weights, tokens, ms, share, limit, othersBusy = Number.NaN, peers } = row;
  const cells = programs.map((program) => {
    const own = peers.filter(({ name }) => name === program);
    if (own.length === 0) return '–';
    const best = fastest(own);
    return `${figure(row, best.ms)} (${best.format})`;
  });
  const ratio = (fastest(peers).ms / ms).toFixed(2);
  const part = `${(100 * share).toFixed(0)} % of ${limit}`;
  line([
    `${work} ${shape}`,
    weights,
    tokens,
    figure(row, ms),
    part,
    ...cells,
    ratio,
    `${(100 * othersBusy).toFixed(0)} %`,
  ]);
}
for (const { limits, machine, isa } of documents) {
  const [read, f32, bf16, int8] = Object.values(limits).map((value) => value / 1e9);
  console.log(
    `limits: read ${digits(read)} GB/s, f32 ${digits(f32)}, bf16 ${digits(bf16)}, int8 ${digits(int8)} GOP/s; ${machine.processor}, ${isa}`,
  );
}
