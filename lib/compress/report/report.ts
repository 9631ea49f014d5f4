import type { Recipe } from '../recipe/schema.ts';
import { escapeHtml, similarityMatrix, sizeAgainstPerplexity, usageBars } from './charts.ts';

/** What compression decided for one layer. */
export interface LayerReport {
  readonly layer: number;
  readonly experts: number;
  readonly groups: number;
  /** Group of each expert. */
  readonly labels: readonly number[];
  /** Share of the router's choices that fell on each expert. */
  readonly frequencies: readonly number[];
  /** Router-logit similarity, [experts, experts], 0 … 1. */
  readonly similarity: readonly number[];
  /** Neurons of each stored expert. */
  readonly widths: readonly number[];
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

export interface Report {
  readonly title: string;
  readonly recipe: Recipe;
  readonly layers: readonly LayerReport[];
  readonly models?: readonly ModelReport[];
}

const style = `
:root { color-scheme: light dark; --ink: #1c2330; --paper: #fff; --line: #c9d0da; --accent: #2563a8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --paper: #14181f; --line: #3a4350; --accent: #6aa9e9; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } .row { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: start; }
table + svg { display: block; margin-top: 1.5rem; } svg { max-width: 100%; height: auto; } svg text { font: 10px system-ui, sans-serif; fill: var(--ink); } svg .title { font-size: 12px; font-weight: 600; }
.axis, .grid { stroke: var(--line); } .even { stroke: var(--ink); stroke-dasharray: 3 3; opacity: .5; } .frame { fill: none; stroke: var(--ink); stroke-width: 1.2; }
`;

/** A self-contained HTML page (no scripts, no outside resources): the quality table, size against perplexity, and each layer's usage and groups. */
export function renderReport(report: Report): string {
  const { title, recipe, layers, models = [] } = report;
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
<h2>Layers</h2><p>Colours are groups; the dashed line is an even share. Similarity is that of router logits, experts in order of their group.</p>
${layers.map(layerSection).join('\n')}
</body></html>
`;
}

function qualityTable(models: readonly ModelReport[]): string {
  const rows = models.map((model) => {
    const cells = [
      escapeHtml(model.name),
      (model.bytes.disk / 1e6).toFixed(2),
      (model.bytes.memory / 1e6).toFixed(2),
      model.nll.toFixed(4),
      Math.exp(model.nll).toFixed(2),
      model.prefill.toFixed(0),
      model.decode.toFixed(0),
    ];
    return `<tr>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`;
  });
  const heads = ['model', 'disk, MB', 'memory, MB', 'NLL, nats', 'perplexity', 'prefill, tokens/s', 'decode, tokens/s'];
  return `<table><tr>${heads.map((head) => `<th>${head}</th>`).join('')}</tr>${rows.join('')}</table>`;
}

function layerSection(layer: LayerReport): string {
  const before = layer.frequencies.map((share, expert) => ({
    label: String(expert),
    share,
    group: layer.labels[expert] as number,
  }));
  const after = Array.from({ length: layer.groups }, (_, group) => ({
    label: String(group),
    share: before.filter((bar) => bar.group === group).reduce((sum, bar) => sum + bar.share, 0),
    group,
  }));
  return `<h3>Layer ${layer.layer}: ${layer.experts} experts, ${layer.groups} groups</h3><div class="row"><div>${usageBars(
    'Expert usage before',
    before,
  )}<br>${usageBars('Group usage after', after)}</div>${similarityMatrix('Router similarity', layer.similarity, layer.labels)}</div>`;
}
