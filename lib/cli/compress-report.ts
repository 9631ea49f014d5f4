/** The report of a compression: HTML, or JSON where the file's name says so. */
import { access, constants, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Checkpoint } from '../checkpoint/checkpoint.ts';
import { exists, unwritable } from '../checkpoint/files.ts';
import type { CompressResult } from '../compress/compress.ts';
import { type Report, renderReport, reportData } from '../compress/report/report.ts';
import { estimateSpeed } from '../compress/report/speed.ts';
import { layerSizes } from '../compress/report/stored-experts.ts';
import type { Device } from '../device/device.ts';

/** Compression may take long: what would hinder the report is found before it. Throws FILE_UNWRITABLE. */
export async function checkReport(file: string): Promise<void> {
  try {
    await access(dirname(file), constants.W_OK);
    if (await exists(file)) await access(file, constants.W_OK);
  } catch (cause) {
    throw unwritable(file, cause);
  }
}

/** What was decided and what it gives: sizes, errors, and the bounds on the speed by the device's measured limits. */
export async function writeReport(
  file: string,
  folders: { source: string; out: string },
  { recipe, layers }: CompressResult,
  device: Device,
): Promise<void> {
  await using before = await Checkpoint.open(folders.source);
  await using after = await Checkpoint.open(folders.out);
  const used = layers.filter(({ frequencies }) => frequencies.length > 0);
  const frequencies = new Map(used.map((layer) => [layer.layer, layer.frequencies]));
  const limits = await device.limits();
  const bounds = (checkpoint: Checkpoint) =>
    [1, 512].map((tokens) => estimateSpeed(checkpoint, { limits, tokens, frequencies }));
  const report: Report = {
    title: `${folders.source} → ${folders.out}`,
    recipe,
    layers,
    source: layerSizes(before),
    speed: { device: device.name, before: bounds(before), after: bounds(after) },
  };
  const text = file.endsWith('.json') ? `${JSON.stringify(reportData(report), undefined, 2)}\n` : renderReport(report);
  await writeFile(file, text).catch((cause) => {
    throw unwritable(file, cause);
  });
}
