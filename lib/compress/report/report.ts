import type { Recipe } from '../recipe/schema.ts';
import { barChart, escapeHtml, similarityMatrix, sizeAgainstPerplexity } from './charts.ts';
import type { SpeedEstimate } from './speed.ts';
import type { LayerSize } from './stored-experts.ts';

/** What compression decided for one layer. */
export interface LayerReport {
  readonly layer: number;
  readonly experts: number;
  readonly groups: number;
  /** Group of each expert; −1: it is gone. */
  readonly labels: readonly number[];
  /** Share of the router's choices that fell on each expert; empty where no step grouped. */
  readonly frequencies: readonly number[];
  /** Router-logit similarity, [experts, experts], 0 … 1; empty where no step grouped. */
  readonly similarity: readonly number[];
  /** Squared error of the layer's output over the squared original output, on the calibration inputs as they reach it. */
  readonly error: number;
  /** Neurons of each stored expert. */
  readonly widths: readonly number[];
  /** Rank of each stored expert's factors, for the matrices that have some. */
  readonly ranks?: { readonly [matrix in 'gate' | 'up' | 'down']?: readonly number[] };
  /** Of the stored expert matrices, scales and indices included. */
  readonly bytes: number;
  /** Elements of the stored matrices, the router's included. */
  readonly parameters: number;
}

/** One row of a quality table. */
export interface ModelReport {
  readonly name: string;
  readonly bytes: { readonly disk: number; readonly memory: number };
  /** Mean negative log-likelihood, nats a token. */
  readonly nll: number;
  /** Tokens a second. */
  readonly prefill: number;
  readonly decode: number;
}

/** What the weights allow at best; see `estimateSpeed`. */
export interface SpeedReport {
  readonly device: string;
  /** For some numbers of tokens a run, the same ones before and after. */
  readonly before: readonly SpeedEstimate[];
  readonly after: readonly SpeedEstimate[];
}

export interface Report {
  readonly title: string;
  readonly recipe: Recipe;
  readonly layers: readonly LayerReport[];
  /** The layers of the source, by their indices. */
  readonly source?: readonly LayerSize[];
  readonly models?: readonly ModelReport[];
  readonly speed?: SpeedReport;
}

/** The report as plain data, with perplexities and the sums over the layers. */
export function reportData(report: Report): Record<string, unknown> {
  const { title, recipe, layers, source, models, speed } = report;
  return {
    version: 1,
    title,
    recipe,
    totals: {
      ...(source && { before: sizes(source) }),
      after: sizes(layers),
      error: layers.length > 0 ? layers.reduce((sum, layer) => sum + layer.error, 0) / layers.length : 0,
    },
    layers: layers.map((layer) => {
      const own = source?.find((size) => size.layer === layer.layer);
      return { ...layer, ...(own && { before: { bytes: own.bytes, parameters: own.parameters } }) };
    }),
    ...(models && { models: models.map((model) => ({ ...model, perplexity: Math.exp(model.nll) })) }),
    ...(speed && { speed }),
  };
}

function sizes(layers: readonly Pick<LayerSize, 'bytes' | 'parameters'>[]): { bytes: number; parameters: number } {
  return {
    bytes: layers.reduce((sum, { bytes }) => sum + bytes, 0),
    parameters: layers.reduce((sum, { parameters }) => sum + parameters, 0),
  };
}

const style = `
:root { color-scheme: light dark; --ink: #1c2330; --paper: #fff; --line: #c9d0da; --accent: #2563a8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --paper: #14181f; --line: #3a4350; --accent: #6aa9e9; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } .row { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: start; }
table + svg { display: block; margin-top: 1.5rem; } svg { max-width: 100%; height: auto; } svg text { font: 10px system-ui, sans-serif; fill: var(--ink); } svg .title { font-size: 12px; font-weight: 600; }
.axis, .grid { stroke: var(--line); } .even { stroke: var(--ink); stroke-dasharray: 3 3; opacity: .5; } .before { fill: none; stroke: var(--line); } .frame { fill: none; stroke: var(--ink); stroke-width: 1.2; }
`;

/**
 * A self-contained HTML page (no scripts, no outside resources): quality, size against perplexity, speed bounds, bytes and error of the
 * layers, and each layer's usage, groups, widths and ranks.
 */
export function renderReport(report: Report): string {
  const { title, recipe, layers, source, speed, models = [] } = report;
  const settings = Object.entries(recipe).map(
    ([key, value]) => `${key}: ${typeof value === 'object' ? JSON.stringify(value) : value}`,
  );
  const quality =
    models.length > 0
      ? `<h2>Quality and size</h2>${qualityTable(models)}${sizeAgainstPerplexity(
          'Size against perplexity',
          models.map((model) => ({ label: model.name, x: model.bytes.memory, y: Math.exp(model.nll) })),
        )}`
      : '';
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escapeHtml(title)}</title><style>${style}</style></head>
<body><h1>${escapeHtml(title)}</h1><p>${escapeHtml(settings.join(' · '))}</p>
${quality}
${speed ? speedSection(speed) : ''}
<h2>Layers</h2>${overview(layers, source)}
<p>Colours are groups; the dashed line is an even share. Similarity is that of router logits, experts in order of their group.</p>
${layers.map(layerSection).join('\n')}
</body></html>
`;
}

function qualityTable(models: readonly ModelReport[]): string {
  const rows = models.map((model) => [
    model.name,
    (model.bytes.disk / 1e6).toFixed(2),
    (model.bytes.memory / 1e6).toFixed(2),
    model.nll.toFixed(4),
    Math.exp(model.nll).toFixed(2),
    model.prefill.toFixed(0),
    model.decode.toFixed(0),
  ]);
  const heads = ['model', 'disk, MB', 'memory, MB', 'NLL, nats', 'perplexity', 'prefill, tokens/s', 'decode, tokens/s'];
  return htmlTable(heads, rows);
}

function htmlTable(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[], tag: 'th' | 'td'): string =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join('')}</tr>`;
  return `<table>${line(heads, 'th')}${rows.map((row) => line(row, 'td')).join('')}</table>`;
}

function speedSection({ device, before, after }: SpeedReport): string {
  const rate = ({ tokensPerSecond, limit }: SpeedEstimate): string =>
    tokensPerSecond === null ? 'unknown' : `${tokensPerSecond.toPrecision(3)} (${limit})`;
  const operations = ({ operations: { float, integer }, tokens }: SpeedEstimate): string =>
    ((float + integer) / tokens / 1e6).toFixed(2);
  const rows = before.flatMap((own, at) => {
    const other = after[at];
    if (!other) return [];
    const bytes = [own, other].map((estimate) => (estimate.bytes / 1e6).toFixed(2));
    return [[String(own.tokens), ...bytes, operations(own), operations(other), rate(own), rate(other)]];
  });
  const heads = ['tokens a run', 'MB read before', 'after', 'Mop a token before', 'after', 'tokens/s before', 'after'];
  return `<h2>Speed bounds</h2><p>What ${escapeHtml(device)} allows at best, by its measured limits: the larger of the time to read the weights and the time to compute. Attention to the cache does not count.</p>${htmlTable(heads, rows)}`;
}

function overview(layers: readonly LayerReport[], source: readonly LayerSize[] | undefined): string {
  const bytes = layers.map(({ layer, bytes: value }) => {
    const before = source?.find((size) => size.layer === layer)?.bytes;
    return { label: String(layer), value, ...(before !== undefined && { before }) };
  });
  const errors = layers.map(({ layer, error }) => ({ label: String(layer), value: error }));
  const megabytes = (value: number): string => `${(value / 1e6).toPrecision(3)} MB`;
  const charts = [
    barChart(source ? 'Bytes of the experts, a layer (outline: before)' : 'Bytes of the experts, a layer', bytes, {
      show: megabytes,
    }),
    barChart('Error of the output, a layer', errors, { show: percent }),
  ];
  return `<div class="row">${charts.join('')}</div>`;
}

function percent(share: number): string {
  return `${(100 * share).toPrecision(3)} %`;
}

function layerSection(layer: LayerReport): string {
  const { frequencies, labels, similarity, groups, widths, ranks = {} } = layer;
  const before = frequencies.map((value, expert) => ({
    label: String(expert),
    value,
    group: labels[expert] as number,
  }));
  const after = Array.from({ length: groups }, (_, group) => ({
    label: String(group),
    value: before.filter((bar) => bar.group === group).reduce((sum, bar) => sum + bar.value, 0),
    group,
  }));
  const ofSlots = (title: string, values: readonly number[]): string =>
    barChart(
      title,
      values.map((value, group) => ({ label: String(group), value, group })),
      { show: String },
    );
  const usage =
    before.length > 0
      ? [
          barChart('Expert usage before', before, { show: percent, mark: 1 / before.length }),
          barChart('Group usage after', after, { show: percent, mark: 1 / groups }),
        ]
      : [];
  const shapes = [
    ofSlots('Neurons of each stored expert', widths),
    ...Object.entries(ranks).map(([matrix, values]) => ofSlots(`Rank of each ${matrix} matrix`, values ?? [])),
  ];
  const matrix = similarity.length > 0 ? similarityMatrix('Router similarity', similarity, labels) : '';
  const size = `${layer.parameters} parameters, ${(layer.bytes / 1e6).toFixed(3)} MB, error ${percent(layer.error)}`;
  return `<h3>Layer ${layer.layer}: ${layer.experts} experts, ${groups} groups</h3><p>${size}</p><div class="row"><div>${usage.join('<br>')}</div>${matrix}<div>${shapes.join('<br>')}</div></div>`;
}
