/** Calibration windows of a few tokens, where a test is about something else. */
import { SafetensorsWriter } from '../../lib/checkpoint/writer.ts';

/** Writes a safetensors file of ids below `vocabulary`, [4, 32]; its path. */
export async function shortWindows(path: string, vocabulary: number): Promise<string> {
  const writer = await SafetensorsWriter.create(path, [{ name: 'calibration', dtype: 'I32', shape: [4, 32] }]);
  await writer.write(
    'calibration',
    Int32Array.from({ length: 128 }, (_, i) => (i * i + 5 * i) % vocabulary),
  );
  await writer.finish();
  return path;
}
