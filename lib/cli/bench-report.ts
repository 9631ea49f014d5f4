/** What a bench prints: a table or one JSON document, and the roofline as a page. */
import { writeFile } from 'node:fs/promises';
import type { NativeLimits } from '../addon.ts';
import { limitNames } from '../bench/limits.ts';
import { partRatios } from '../bench/parts.ts';
import { renderRoofline } from '../bench/roofline.ts';
import { judge, type Row, requirePossible, type Timed } from '../bench/rows.ts';
import { unwritable } from '../checkpoint/files.ts';
import type { Device } from '../device/device.ts';
import { print, printJson, table } from './output.ts';

export interface ReportOptions {
  json?: boolean;
  html?: string;
  warm?: boolean;
}

/** Throws FILE_UNWRITABLE, and, when all is printed, INTERNAL where a row is above its limit. */
export async function report(
  device: Device,
  limits: NativeLimits,
  timed: readonly Timed[],
  { json, html, warm = false }: ReportOptions,
): Promise<void> {
  const rows = timed.map((one) => judge(one, limits, warm));
  const machine = { device: device.name, ...device.description };
  const { isa = null, processor = device.name, threads = '' } = device.description;
  if (html !== undefined) {
    const page = renderRoofline({
      title: 'node-moe bench',
      machine: `${processor}, ${isa ?? ''}, ${threads} threads; ${limitText(limits)}`,
      limits,
      rows,
    });
    await writeFile(html, page).catch((cause: unknown) => {
      throw unwritable(html, cause);
    });
  }
  if (json) printJson({ machine, isa, limits, warm, rows });
  else {
    print(`${limitText(limits)}\n`);
    print(rowTable(rows));
  }
  requirePossible(rows);
}

function limitText(limits: NativeLimits): string {
  const names = ['read', 'f32', 'bf16', 'int8'];
  const texts = limitNames.map((name, at) => {
    const rate = limits[name];
    const unit = at === 0 ? 'GB/s' : 'GOP/s';
    return rate > 0 ? `${names[at]} ${(rate / 1e9).toFixed(at === 0 ? 1 : 0)} ${unit}` : `${names[at]} unknown`;
  });
  return `best of this run: ${texts.join(', ')}`;
}

function rowTable(rows: readonly Row[]): string {
  const ratios = rows.map((row) => partRatios(row, rows));
  const withRatios = ratios.some((one) => one !== undefined);
  const cells = rows.map((row, at) => {
    const ratio = ratios[at];
    return [
      `${row.work} ${row.shape}`,
      row.weights,
      String(row.tokens),
      row.ms < 10 ? row.ms.toFixed(4) : row.ms.toFixed(2),
      row.gigabytesPerSecond.toFixed(1),
      row.readBytesPerSecond ? (row.readBytesPerSecond / 1e9).toFixed(1) : '-',
      row.teraoperationsPerSecond.toFixed(3),
      row.share === null ? '-' : `${(100 * row.share).toFixed(0)} % of ${row.limit}`,
      ...(withRatios ? [ratio?.time, ratio?.bytes, ratio?.operations].map((value) => value?.toFixed(2) ?? '-') : []),
    ];
  });
  const heads = ['row', 'weights', 'tokens', 'ms', 'GB/s', 'of', 'TOPS', 'share of limit'];
  return table([...heads, ...(withRatios ? ['time ×', 'bytes ×', 'operations ×'] : [])], cells);
}
