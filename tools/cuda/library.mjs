/** The CUDA library that is shipped: the one built for it, else the one built for development; undefined where neither is. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** @returns {string | undefined} an absolute path */
export function builtLibrary() {
  return ['build-cuda-release', 'build-cuda']
    .map((folder) => fileURLToPath(new URL(`../../${folder}/moe_cuda.so`, import.meta.url)))
    .find((file) => existsSync(file));
}
