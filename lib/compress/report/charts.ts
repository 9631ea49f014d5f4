/** SVG plots for the report: plain strings, sized in CSS pixels, coloured by the page's custom properties. */

const escapes: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (character) => escapes[character] as string);
}

/** A hue for each group, far apart for neighbours. */
function groupColor(group: number): string {
  return `hsl(${Math.round((group * 137.5) % 360)} 55% 52%)`;
}

function svg(width: number, height: number, label: string, body: string): string {
  return `<svg viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escapeHtml(label)}">${body}</svg>`;
}

export interface Bar {
  readonly label: string;
  readonly value: number;
  /** Colours the bar. Default: all alike. */
  readonly group?: number;
  /** Drawn as an outline behind the bar. */
  readonly before?: number;
}

export interface BarsOptions {
  readonly show: (value: number) => string;
  /** A dashed line at this value. */
  readonly mark?: number;
}

/** Upright bars from 0 on. */
export function barChart(title: string, bars: readonly Bar[], { show, mark }: BarsOptions): string {
  const [left, top, height, step] = [64, 26, 120, Math.max(8, Math.min(26, 560 / bars.length))];
  const width = left + Math.max(step * bars.length, 7 * title.length) + 8;
  const peak = Math.max(mark ?? 0, ...bars.flatMap(({ value, before }) => [value, before ?? 0])) || 1;
  const y = (value: number): number => top + height * (1 - value / peak);
  const every = Math.ceil(20 / step);
  const columns = bars.map(({ label, value, group, before }, index) => {
    const x = left + index * step;
    const text =
      index % every === 0
        ? `<text x="${x + step / 2}" y="${top + height + 14}" text-anchor="middle">${escapeHtml(label)}</text>`
        : '';
    const rect = (of: number, look: string): string =>
      `<rect x="${x + 1}" y="${y(of)}" width="${step - 2}" height="${top + height - y(of)}" ${look}`;
    const outline = before === undefined ? '' : `${rect(before, 'class="before"')}/>`;
    const fill = group === undefined ? 'var(--accent)' : groupColor(group);
    const words = [
      `${label}: ${show(value)}`,
      ...(before === undefined ? [] : [`before ${show(before)}`]),
      ...(group === undefined ? [] : [`group ${group}`]),
    ];
    return `${outline}${rect(value, `fill="${fill}"`)}><title>${escapeHtml(words.join(', '))}</title></rect>${text}`;
  });
  const line = (at: number, look: string): string =>
    `<line class="${look}" x1="${left}" x2="${left + step * bars.length}" y1="${y(at)}" y2="${y(at)}"/>`;
  const axis =
    `<text x="${left - 6}" y="${top + 4}" text-anchor="end">${escapeHtml(show(peak))}</text>` +
    `<text x="${left - 6}" y="${top + height}" text-anchor="end">0</text>` +
    line(0, 'axis') +
    (mark === undefined ? '' : line(mark, 'even'));
  const heading = `<text class="title" x="${left}" y="14">${escapeHtml(title)}</text>`;
  return svg(width, top + height + 22, title, heading + columns.join('') + axis);
}

/** The similarity matrix with experts in order of their group; a frame around each group. */
export function similarityMatrix(title: string, similarity: ArrayLike<number>, labels: ArrayLike<number>): string {
  const experts = labels.length;
  const order = Array.from({ length: experts }, (_, expert) => expert).sort(
    (a, b) => (labels[a] as number) - (labels[b] as number) || a - b,
  );
  const [left, top, cell] = [30, 26, Math.max(2, Math.min(18, 320 / experts))];
  const off = order.flatMap((a) => order.filter((b) => b !== a).map((b) => similarity[a * experts + b] as number));
  const [low, high] = [Math.min(...off, 1), Math.max(...off, 0)];
  const cells = order.flatMap((a, row) =>
    order.map((b, column) => {
      const value = similarity[a * experts + b] as number;
      const strength = a === b || high === low ? 1 : (value - low) / (high - low);
      return `<rect x="${left + column * cell}" y="${top + row * cell}" width="${cell}" height="${cell}" fill="var(--accent)" fill-opacity="${strength.toFixed(3)}"><title>${a} and ${b}: ${value.toFixed(3)}</title></rect>`;
    }),
  );
  const frames: string[] = [];
  for (let start = 0; start < experts; ) {
    const label = labels[order[start] as number];
    let end = start;
    while (end < experts && labels[order[end] as number] === label) end++;
    const size = (end - start) * cell;
    frames.push(
      `<rect class="frame" x="${left + start * cell}" y="${top + start * cell}" width="${size}" height="${size}"/>`,
    );
    start = end;
  }
  const every = Math.ceil(12 / cell);
  const ticks = order.map((expert, row) =>
    row % every === 0 ? `<text x="${left - 4}" y="${top + (row + 0.8) * cell}" text-anchor="end">${expert}</text>` : '',
  );
  const side = cell * experts;
  const heading = `<text class="title" x="${left}" y="14">${escapeHtml(title)}</text>`;
  return svg(left + side + 4, top + side + 4, title, heading + cells.join('') + frames.join('') + ticks.join(''));
}

export interface Point {
  readonly label: string;
  /** Bytes. */
  readonly x: number;
  readonly y: number;
}

/** Size against perplexity; down and left is better. */
export function sizeAgainstPerplexity(title: string, points: readonly Point[]): string {
  const [left, top, width, height] = [56, 30, 460, 220];
  const spread = (values: readonly number[]): [number, number] => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const margin = (high - low || high || 1) * 0.15;
    return [Math.max(0, low - margin), high + margin];
  };
  const [x0, x1] = spread(points.map((point) => point.x));
  const [y0, y1] = spread(points.map((point) => point.y));
  const x = (value: number): number => left + ((value - x0) / (x1 - x0)) * width;
  const y = (value: number): number => top + height - ((value - y0) / (y1 - y0)) * height;
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => {
    const [bytes, perplexity] = [x0 + part * (x1 - x0), y0 + part * (y1 - y0)];
    return (
      `<line class="grid" x1="${x(bytes)}" x2="${x(bytes)}" y1="${top}" y2="${top + height}"/>` +
      `<line class="grid" x1="${left}" x2="${left + width}" y1="${y(perplexity)}" y2="${y(perplexity)}"/>` +
      `<text x="${x(bytes)}" y="${top + height + 15}" text-anchor="middle">${(bytes / 1e6).toFixed(bytes < 1e8 ? 1 : 0)}</text>` +
      `<text x="${left - 6}" y="${y(perplexity) + 4}" text-anchor="end">${perplexity.toFixed(1)}</text>`
    );
  });
  const taken: { x: number; y: number }[] = [];
  const dots = points.map((point) => {
    const [atX, atY] = [x(point.x), y(point.y)];
    const end = atX > left + width * 0.6;
    // Names of neighbours go above one another.
    let line = atY + 4;
    while (taken.some((other) => Math.abs(other.x - atX) < 100 && Math.abs(other.y - line) < 11)) line -= 11;
    taken.push({ x: atX, y: line });
    return (
      `<circle cx="${atX}" cy="${atY}" r="5" fill="var(--accent)"/>` +
      `<text x="${atX + (end ? -9 : 9)}" y="${line}" text-anchor="${end ? 'end' : 'start'}">${escapeHtml(point.label)}</text>`
    );
  });
  const names =
    `<text class="title" x="${left}" y="14">${escapeHtml(title)}</text>` +
    `<text x="${left + width}" y="${top + height + 30}" text-anchor="end">megabytes in memory</text>`;
  return svg(left + width + 16, top + height + 36, title, names + ticks.join('') + dots.join(''));
}
