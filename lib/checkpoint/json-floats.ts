/** JSON keeps no difference between 1 and 1.0; Python's readers do, and some refuse the one where they expect the other. */

/** A key and a number with a point or an exponent. */
const floatEntry = /"((?:[^"\\]|\\.)*)"\s*:\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?=\s*[,}\]])/g;

/**
 * Rewrites whole numbers of a JSON text as the source spells them, where the source has a float of the same value under the same key.
 *
 * @param text as JSON.stringify makes it
 * @param source the JSON text that its values come from
 */
export function keepFloats(text: string, source: string): string {
  const spelled = new Map<string, string>();
  for (const [, key, number] of source.matchAll(floatEntry)) {
    if (/[.eE]/.test(number as string)) spelled.set(`${key}:${Number(number)}`, number as string);
  }
  return text.replace(floatEntry, (entry: string, key: string, number: string) => {
    const float = spelled.get(`${key}:${Number(number)}`);
    return float === undefined ? entry : entry.slice(0, entry.length - number.length) + float;
  });
}
