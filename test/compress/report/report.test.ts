/** The report as data and as a page. */
import { strict as assert } from 'node:assert';
import { join } from 'node:path';
import { Checkpoint } from '../../../lib/checkpoint/checkpoint.ts';
import { compress } from '../../../lib/compress/compress.ts';
import type { Recipe } from '../../../lib/compress/recipe/schema.ts';
import { type LayerReport, type Report, renderReport, reportData } from '../../../lib/compress/report/report.ts';
import { layerSizes } from '../../../lib/compress/report/stored-experts.ts';
import { inFolder, root, tinyModel } from '../../checkpoint/support.ts';

const merged: LayerReport = {
  layer: 1,
  experts: 3,
  groups: 2,
  labels: [0, 1, 0],
  frequencies: [0.5, 0.3, 0.2],
  similarity: [1, 0.2, 0.9, 0.2, 1, 0.4, 0.9, 0.4, 1],
  error: 0.0123,
  widths: [64, 48],
  ranks: { down: [16, 8] },
  bytes: 3e6,
  parameters: 1000,
};
const pruned: LayerReport = {
  ...merged,
  layer: 3,
  labels: [-1, 0, 1],
  frequencies: [],
  similarity: [],
  error: 0.05,
  bytes: 1e6,
  parameters: 500,
};
const estimate = {
  operations: { float: 2e6, integer: 1e6 },
  seconds: 0.5,
  tokensPerSecond: 2,
  limit: 'memory',
} as const;
const report: Report = {
  title: 'a <b> & "c"',
  recipe: { name: 'merge', steps: [], recover: 'none' } as unknown as Recipe,
  layers: [merged, pruned],
  source: [
    { layer: 1, bytes: 6e6, parameters: 2000 },
    { layer: 3, bytes: 5e6, parameters: 2000 },
  ],
  models: [{ name: 'merged', bytes: { disk: 1e6, memory: 2e6 }, nll: 2, prefill: 100, decode: 10 }],
  speed: {
    device: 'cpu',
    before: [{ ...estimate, tokens: 1, bytes: 8e6 }],
    after: [{ ...estimate, tokens: 1, bytes: 4e6, tokensPerSecond: 4, limit: 'arithmetic' }],
  },
};

describe('report', () => {
  it('as data: everything, with sums and perplexity', () => {
    const data = JSON.parse(JSON.stringify(reportData(report)));
    assert.deepEqual(Object.keys(data), ['version', 'title', 'recipe', 'totals', 'layers', 'models', 'speed']);
    assert.deepEqual(data.totals, {
      before: { bytes: 11e6, parameters: 4000 },
      after: { bytes: 4e6, parameters: 1500 },
      error: (0.0123 + 0.05) / 2,
    });
    assert.deepEqual(data.layers[0], { ...merged, before: { bytes: 6e6, parameters: 2000 } });
    assert.equal(data.models[0].perplexity, Math.exp(2));
    assert.deepEqual(data.speed, report.speed);
    const { source: _, models: __, speed: ___, ...bare } = report;
    assert.deepEqual(Object.keys(reportData(bare)), ['version', 'title', 'recipe', 'totals', 'layers']);
  });

  it('as a page: every plot, nothing from outside, all numbers finite', () => {
    const html = renderReport(report);
    assert.ok(!/<script|https?:\/\/|NaN|Infinity|undefined|<b>/.test(html));
    const plots = [...html.matchAll(/aria-label="([^"]+)"/g)].map(([, label]) => label);
    assert.deepEqual(plots, [
      'Size against perplexity',
      'Bytes of the experts, a layer (outline: before)',
      'Error of the output, a layer',
      'Expert usage before',
      'Group usage after',
      'Router similarity',
      'Neurons of each stored expert',
      'Rank of each down matrix',
      'Neurons of each stored expert',
      'Rank of each down matrix',
    ]);
    assert.ok(html.includes('<title>1: 3.00 MB, before 6.00 MB</title>'));
    assert.ok(html.includes('<title>3: 5.00 %</title>'));
    assert.ok(html.includes('<title>1: 48, group 1</title>'));
    assert.match(html, /<td>8\.00<\/td><td>4\.00<\/td><td>3\.00<\/td><td>3\.00<\/td><td>2\.00 \(memory\)<\/td>/);
    // Bars start at the axis and the tallest one fills the plot.
    const heights = [...html.matchAll(/<rect x="[\d.]+" y="([\d.]+)" width="24" height="([\d.]+)"/g)];
    for (const [, y, height] of heights) assert.ok(Math.abs(Number(y) + Number(height) - 146) < 1e-9);
    assert.equal(Math.max(...heights.map(([, , height]) => Number(height))), 120);
  });

  it('sizes of a folder are those that compress reports', async () => {
    await inFolder(async (folder) => {
      const calibrate = [join(root, 'examples/text/node.calibrate.txt')];
      const steps = [
        { step: 'group', method: 'mc-smoe', groups: 8 },
        { step: 'merge', method: 'frequency' },
        { step: 'quantize', method: 'round', weights: 'int4' },
      ];
      const out = join(folder, 'merged');
      const recipe = { steps, recover: 'none' } as never;
      const { layers } = await compress(tinyModel, { out, recipe, calibrate, calibrationTokens: 512, device: 'cpu' });
      await using checkpoint = await Checkpoint.open(out);
      assert.deepEqual(
        layerSizes(checkpoint),
        layers.map(({ layer, bytes, parameters }) => ({ layer, bytes, parameters })),
      );
      await using original = await Checkpoint.open(tinyModel);
      const [first] = layerSizes(original);
      const { elements, bytes } = [...original.tensors.values()]
        .filter(({ name }) => /^model\.layers\.0\.mlp\./.test(name))
        .reduce(
          (sum, { name, shape, begin, end }) => ({
            elements: sum.elements + shape.reduce((a, b) => a * b, 1),
            bytes: sum.bytes + (name.includes('.experts.') ? end - begin : 0),
          }),
          { elements: 0, bytes: 0 },
        );
      assert.deepEqual(first, { layer: 0, bytes, parameters: elements });
    });
  }).timeout(120_000);
});
