/** Writes docs/recipe.schema.json, the JSON schema of the files that `compress --recipe` takes: `npm run schema`. */
import { writeFileSync } from 'node:fs';
import { recipeJsonSchema } from '../lib/compress/recipe/schema.ts';

const file = new URL('../docs/recipe.schema.json', import.meta.url);
writeFileSync(file, `${JSON.stringify(recipeJsonSchema(), null, 2)}\n`);
