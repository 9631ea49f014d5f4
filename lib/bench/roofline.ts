/** A self-contained HTML page with the roofline of a run: what memory and arithmetic allow, and where each row stands. */
import type { NativeLimits } from '../addon.ts';
import { escapeHtml } from '../compress/report/charts.ts';
import { peaks, totalOperations } from './limits.ts';
import type { Row } from './rows.ts';

export interface RooflinePage {
  readonly title: string;
  readonly machine: string;
  readonly limits: NativeLimits;
  readonly rows: readonly Row[];
}

const style = `
:root { color-scheme: light dark; --ink: #1c2330; --paper: #fff; --line: #c9d0da; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --paper: #14181f; --line: #3a4350; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } th, td { padding: .2rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em; }
svg { max-width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--ink); } .grid { stroke: var(--line); } .roof { stroke: var(--ink); fill: none; stroke-width: 1.4; }
`;

/** A colour for each kind of weights, far apart for neighbours. */
function colorOf(weights: string, rows: readonly Row[]): string {
  const kinds = [...new Set(rows.map((row) => row.weights))];
  return `hsl(${Math.round((kinds.indexOf(weights) * 137.5) % 360)} 60% 50%)`;
}

export function renderRoofline({ title, machine, limits, rows }: RooflinePage): string {
  const heads = ['row', 'tokens', 'ms', 'GB/s', 'TOPS', 'share of limit'];
  const cells = rows.map((row) => [
    `<i style="background:${colorOf(row.weights, rows)}"></i>${escapeHtml(`${row.work} ${row.shape}, ${row.weights}`)}`,
    String(row.tokens),
    row.ms.toPrecision(4),
    row.gigabytesPerSecond.toFixed(1),
    row.teraoperationsPerSecond.toPrecision(3),
    row.share === null ? '–' : `${(100 * row.share).toFixed(0)} % of ${row.limit}`,
  ]);
  const line = (of: readonly string[], tag: 'th' | 'td'): string =>
    `<tr>${of.map((cell) => `<${tag}>${cell}</${tag}>`).join('')}</tr>`;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escapeHtml(title)}</title><style>${style}</style></head>
<body><h1>${escapeHtml(title)}</h1><p>${escapeHtml(machine)}</p>
${plot(limits, rows)}
<p>Each point is a row: its operations a byte from memory, and the operations a second that it reached. Lines are the limits measured in the same run.</p>
<table>${line(heads, 'th')}${cells.map((row) => line(row, 'td')).join('')}</table>
</body></html>
`;
}

interface Axis {
  readonly low: number;
  readonly high: number;
  place(value: number): number;
}

/** Logarithmic, in whole decades around the values. */
function axis(values: readonly number[], from: number, to: number): Axis {
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
  return { low, high, place: (value) => from + ((Math.log10(value) - low) / (high - low)) * (to - from) };
}

function plot(limits: NativeLimits, rows: readonly Row[]): string {
  const [left, top, right, bottom] = [70, 20, 860, 440];
  const points = rows
    .map((row) => ({
      row,
      intensity: totalOperations(row.operations) / row.bytes,
      rate: row.teraoperationsPerSecond * 1e12,
    }))
    .filter(({ intensity, rate }) => Number.isFinite(intensity) && intensity > 0 && rate > 0);
  const read = limits.readBytesPerSecond;
  // Narrower units that are not faster have no roof of their own.
  const roofs = Object.entries(peaks(limits)).filter(
    ([, peak], at, all) => peak > 0 && all.findIndex(([, other]) => other === peak) === at,
  );
  if (points.length === 0 || !(read > 0) || roofs.length === 0) return '<p>No limits or no rows to draw.</p>';
  const highest = Math.max(...roofs.map(([, peak]) => peak));
  const x = axis([...points.map(({ intensity }) => intensity), highest / read], left, right);
  const y = axis([...points.map(({ rate }) => rate), highest], bottom, top);
  const decades = ({ low, high }: Axis): number[] => Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
  const power = (value: number): string => `10<tspan dy="-4" font-size="8">${Math.round(Math.log10(value))}</tspan>`;
  const grid = [
    ...decades(x).map(
      (value) =>
        `<line class="grid" x1="${x.place(value)}" x2="${x.place(value)}" y1="${top}" y2="${bottom}"/><text x="${x.place(value)}" y="${bottom + 18}" text-anchor="middle">${power(value)}</text>`,
    ),
    ...decades(y).map(
      (value) =>
        `<line class="grid" x1="${left}" x2="${right}" y1="${y.place(value)}" y2="${y.place(value)}"/><text x="${left - 8}" y="${y.place(value) + 4}" text-anchor="end">${power(value)}</text>`,
    ),
  ];
  // The slope from the lower edge to the highest roof, then each roof on from the slope.
  const start = Math.max(10 ** x.low, 10 ** y.low / read);
  const slope = `<path class="roof" d="M${x.place(start)} ${y.place(start * read)}L${x.place(highest / read)} ${y.place(highest)}"/><text x="${x.place(start) + 8}" y="${y.place(start * read) - 12}">read ${(read / 1e9).toFixed(1)} GB/s</text>`;
  const flats = roofs.map(
    ([name, peak]) =>
      `<path class="roof" d="M${x.place(peak / read)} ${y.place(peak)}H${right}"/><text x="${right - 4}" y="${y.place(peak) - 5}" text-anchor="end">${name} ${(peak / 1e12).toPrecision(3)} TOPS</text>`,
  );
  const dots = points.map(({ row, intensity, rate }) => {
    const text = `${row.work} ${row.shape}, ${row.weights}, ${row.tokens} tokens: ${row.ms.toPrecision(4)} ms${row.share === null ? '' : `, ${(100 * row.share).toFixed(0)} % of ${row.limit}`}`;
    return `<circle cx="${x.place(intensity)}" cy="${y.place(rate)}" r="5" fill="${colorOf(row.weights, rows)}"><title>${escapeHtml(text)}</title></circle>`;
  });
  const names = `<text x="${right}" y="${bottom + 36}" text-anchor="end">operations a byte</text><text x="${left}" y="${top - 8}">operations/s</text>`;
  return `<svg viewBox="0 0 ${right + 20} ${bottom + 44}" width="${right + 20}" height="${bottom + 44}" role="img" aria-label="roofline">${grid.join('')}${slope}${flats.join('')}${dots.join('')}${names}</svg>`;
}
