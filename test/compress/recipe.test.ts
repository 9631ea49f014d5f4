import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { isRecipeName, namedRecipe, type RecipeOptions, recipeNames } from '../../lib/compress/recipe/presets.ts';
import { parseRecipe, recipeJsonSchema } from '../../lib/compress/recipe/schema.ts';

describe('recipes', () => {
  const steps = (name: string, options: RecipeOptions) =>
    namedRecipe(name, options).steps.map((step) => [step.step, 'method' in step ? step.method : undefined]);

  it('each preset is its steps, in the published form or refitted', () => {
    const all = { groups: 4, rank: 8, neurons: 0.5, weights: { format: 'int4' } } as const;
    const published = { ...all, recover: 'none' };
    assert.deepEqual(steps('mc-smoe', all).flat(), [
      'group',
      'mc-smoe',
      'merge',
      'neurons',
      'factorize',
      'joint',
      'quantize',
      'gptq',
    ]);
    assert.deepEqual(steps('mc-smoe', published).flat(), [
      'group',
      'mc-smoe',
      'merge',
      'frequency',
      'factorize',
      'losparse',
      'quantize',
      'round',
    ]);
    const [, , lossy] = namedRecipe('mc-smoe', published).steps;
    assert.equal(lossy?.step === 'factorize' && lossy.importance, 'model');
    assert.deepEqual(steps('merge', all).flat(), ['group', 'mc-smoe', 'merge', 'frequency', 'quantize', 'gptq']);
    assert.deepEqual(steps('hc-smoe', all).flat(), ['group', 'hc-smoe', 'merge', 'frequency', 'quantize', 'gptq']);
    assert.deepEqual(steps('reap', published).flat(), ['prune', 'reap', 'quantize', 'round']);
    assert.deepEqual(steps('slim', all).flat(), ['slim', undefined, 'quantize', 'gptq']);
    assert.deepEqual(steps('neurons', all).flat(), ['group', 'mc-smoe', 'merge', 'neurons', 'quantize', 'gptq']);
    assert.deepEqual(steps('best', { weights: { format: 'int8' } }).flat(), ['quantize', 'gptq']);
    const aligned = (recover: string) => namedRecipe('merge', { groups: 4, recover }).steps[1];
    assert.deepEqual(
      ['none', 'least-squares'].map((recover) => (aligned(recover) as { align: string }).align),
      ['first', 'dominant'],
    );
  });

  it('what a preset needs and did not get is named', () => {
    for (const [name, options, argument] of [
      ['merge', {}, 'groups'],
      ['mc-smoe', { groups: 4 }, 'rank'],
      ['reap', { groups: -1 }, 'groups'],
      ['hc-smoe', { groups: 'four' as never }, 'groups'],
      ['slim', {}, 'neurons'],
      ['neurons', {}, 'groups'],
      ['best', {}, 'targetRatio'],
      ['worst', {}, 'recipe'],
    ] as const) {
      assert.throws(() => namedRecipe(name, options), { code: 'RECIPE_INVALID', argument });
    }
    assert.deepEqual([isRecipeName('best'), isRecipeName('constructor')], [true, false]);
    assert.equal(new Set(recipeNames).size, 7);
  });

  it('an error points into the recipe', () => {
    for (const [step, path] of [
      [{ step: 'slim' }, 'keep'],
      [{ step: 'slim', keep: 0.5, ratio: 0.5 }, 'keep'],
      [{ step: 'merge', method: 'neurons', neurons: 0.5, ratio: 0.5 }, 'ratio'],
      [{ step: 'quantize', weights: 'int5' }, 'weights'],
      [{ step: 'factorize', rank: 0 }, 'rank'],
      [{ step: 'group', groups: 0 }, 'groups'],
    ] as const) {
      const recipe = { steps: [{ step: 'sparsify' }, step] };
      const argument = `file.json/steps/1/${path}`;
      assert.throws(() => parseRecipe(recipe, 'file.json'), { code: 'RECIPE_INVALID', argument });
    }
  });

  it('docs/recipe.schema.json is current', async () => {
    const written = await readFile(new URL('../../docs/recipe.schema.json', import.meta.url), 'utf8');
    assert.deepEqual(JSON.parse(written), recipeJsonSchema(), 'run npm run schema');
  });
});
