#!/usr/bin/env node
/**
 * Makes prebuilds/<platform>-<arch>/node.napi.node (and the shared libraries of backends beside it), which node-gyp-build finds in
 * the published package. prebuildify does the naming, the stripping and the copying; tools/build.mjs stands in for node-gyp, so
 * nothing is downloaded. On arm the architecture's version is part of the name, on musl the C library is.
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const prebuildify = createRequire(import.meta.url)('prebuildify');
const musl = existsSync('/etc/alpine-release');

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
    const folder = join(root, 'prebuilds', `${process.platform}-${process.arch}`);
    for (const name of readdirSync(folder)) {
      const mebibytes = (statSync(join(folder, name)).size / 2 ** 20).toFixed(2);
      process.stderr.write(`node-moe: prebuilds/${process.platform}-${process.arch}/${name} ${mebibytes} MiB\n`);
    }
  },
);
