/**
 * model.safetensors.index.json: which shard holds which tensor.
 *
 * A shard is named by a plain file name ending in .safetensors: no separators, so no name leaves the folder, and an index cannot
 * name another index. The file behind the name may be a symbolic link to a regular file elsewhere: Hugging Face caches lay out
 * their folders this way, and who can place a link in the folder can as well place the file.
 */
import { show } from '../arguments.ts';
import { MoeError } from '../errors.ts';
import { isObject, parseObject } from './json.ts';
import type { SafetensorsHeader } from './safetensors.ts';

export const indexName = 'model.safetensors.index.json';
export const singleName = 'model.safetensors';
export const maximumIndexBytes = 100_000_000;
const maximumShards = 100_000;

/** Shard file name → names of its tensors, in the order of the index. */
export type ShardMap = ReadonlyMap<string, ReadonlySet<string>>;

/** Parses an index. Throws CHECKPOINT_MALFORMED. */
export function parseIndex(bytes: Uint8Array, file: string): ShardMap {
  const { weight_map: weightMap } = parseObject(bytes, 'CHECKPOINT_MALFORMED', file);
  const refuse = (argument: string, expected: string, received: unknown): MoeError =>
    new MoeError('CHECKPOINT_MALFORMED', { argument: `${file}: ${argument}`, expected, received: show(received) });
  if (!isObject(weightMap)) throw refuse('weight_map', 'an object of tensor name to file name', weightMap);
  const shards = new Map<string, Set<string>>();
  for (const [name, shard] of Object.entries(weightMap)) {
    if (typeof shard !== 'string' || !isShardName(shard)) {
      throw refuse(name, 'the plain name of a .safetensors file in the same folder', shard);
    }
    const names = shards.get(shard);
    if (names) names.add(name);
    else shards.set(shard, new Set([name]));
    if (shards.size > maximumShards) throw refuse('weight_map', `at most ${maximumShards} files`, shards.size);
  }
  if (shards.size === 0) throw refuse('weight_map', 'at least one tensor', 'none');
  return shards;
}

/** Checks that a shard holds the tensors that the index gives to it, and no other. Throws CHECKPOINT_MALFORMED. */
export function checkShard(header: SafetensorsHeader, names: ReadonlySet<string>, file: string): void {
  const missing = new Set(names);
  for (const entry of header.entries) {
    if (!missing.delete(entry.name)) {
      throw new MoeError('CHECKPOINT_MALFORMED', {
        argument: `${file}: ${entry.name}`,
        expected: 'only tensors that the index gives to this file',
        received: 'one more',
      });
    }
  }
  for (const name of missing) {
    throw new MoeError('CHECKPOINT_MALFORMED', {
      argument: `${file}: ${name}`,
      expected: 'every tensor that the index gives to this file',
      received: 'none of that name',
    });
  }
}

function isShardName(name: string): boolean {
  return (
    /^[^/\\\0]+\.safetensors$/.test(name) && name.length <= 255 && !name.startsWith('.') && !/^[A-Za-z]:/.test(name)
  );
}
