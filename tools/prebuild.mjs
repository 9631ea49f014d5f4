#!/usr/bin/env node
/**
 * Makes prebuilds/<platform>-<arch>/node.napi.node, which node-gyp-build finds in the published package, and moe_cuda.so beside
 * it where that was built (`npm run build:cuda -- --release` builds the one to publish). prebuildify does the naming, the
 * stripping and the copying; tools/build.mjs stands in for node-gyp, so nothing is downloaded. On arm the architecture's
 * version is part of the name, on musl the C library is.
 */
import { copyFileSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { builtLibrary } from './cuda/library.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const prebuildify = createRequire(import.meta.url)('prebuildify');
const musl = existsSync('/etc/alpine-release');
const prebuilds = join(root, 'prebuilds', `${process.platform}-${process.arch}`);

/** prebuildify takes every library from beside the addon. A process that has the old one open keeps it whole. */
function putBesideAddon(library) {
  const to = join(root, 'build/Release/moe_cuda.so');
  const partial = `${to}-${process.pid}.partial`;
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(library, partial);
  renameSync(partial, to);
}

rmSync(prebuilds, { recursive: true, force: true });
const library = builtLibrary();
if (library) putBesideAddon(library);
process.stderr.write(
  `node-moe: the CUDA library is ${library ? relative(root, library) : 'not built and not shipped'}\n`,
);

prebuildify(
  {
    cwd: root,
    napi: true,
    name: 'node.napi',
    strip: true,
    targets: [`node@${process.versions.node}`],
    nodeGyp: fileURLToPath(new URL('build.mjs', import.meta.url)),
    tagArmv: process.arch.startsWith('arm'),
    tagLibc: musl,
  },
  (error) => {
    if (error) {
      process.stderr.write(`node-moe: no prebuild was made: ${error.message}\n`);
      process.exit(1);
    }
    // What else lies beside the addon: the device for development, and a library from nobody knows where.
    for (const name of library ? ['moe_simt.so'] : ['moe_simt.so', 'moe_cuda.so']) {
      rmSync(join(prebuilds, name), { force: true });
    }
    for (const name of readdirSync(prebuilds)) {
      const mebibytes = (statSync(join(prebuilds, name)).size / 2 ** 20).toFixed(2);
      process.stderr.write(`node-moe: prebuilds/${process.platform}-${process.arch}/${name} ${mebibytes} MiB\n`);
    }
  },
);
