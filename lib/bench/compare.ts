/** Two benchmark files side by side. */
import { z } from 'zod';
import { MoeError } from '../errors.ts';

const row = z.object({
  work: z.string(),
  shape: z.string(),
  tokens: z.number(),
  weights: z.string(),
  ms: z.number().positive(),
  share: z.number().nullable(),
});
const document = z.object({ rows: z.array(row) });

export type StoredRow = z.infer<typeof row>;

export interface ComparedRow {
  readonly work: string;
  readonly shape: string;
  readonly tokens: number;
  readonly weights: string;
  readonly before: Pick<StoredRow, 'ms' | 'share'>;
  readonly after: Pick<StoredRow, 'ms' | 'share'>;
  /** Time after over time before. */
  readonly ratio: number;
}

/** The rows of a `--json` document of the bench. Throws INVALID_ARGUMENT, which names `file`. */
export function readRows(text: string, file: string): StoredRow[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  const { success, data, error } = document.safeParse(value);
  if (success) return data.rows;
  const [issue] = error.issues;
  throw new MoeError('INVALID_ARGUMENT', {
    argument: file,
    expected: 'what `node-moe bench … --json` printed',
    received: issue ? `${issue.path.join('.')}: ${issue.message}` : 'something else',
  });
}

/** Rows that both have, in the order of the first. */
export function compareRows(before: readonly StoredRow[], after: readonly StoredRow[]): ComparedRow[] {
  const key = ({ work, shape, tokens, weights }: StoredRow): string => JSON.stringify([work, shape, tokens, weights]);
  const later = new Map(after.map((one) => [key(one), one]));
  return before.flatMap((one) => {
    const other = later.get(key(one));
    if (!other) return [];
    const { work, shape, tokens, weights } = one;
    const figures = ({ ms, share }: StoredRow) => ({ ms, share });
    return [{ work, shape, tokens, weights, before: figures(one), after: figures(other), ratio: other.ms / one.ms }];
  });
}
