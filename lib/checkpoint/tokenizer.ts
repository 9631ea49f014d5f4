/**
 * tokenizer.json through @huggingface/tokenizers, which trusts its input: everything it indexes with is checked here first, and what it
 * still throws becomes TOKENIZER_INVALID.
 */
import { join } from 'node:path';
import { Tokenizer as Library } from '@huggingface/tokenizers';
import { invalid, requireObject, show, viewName } from '../arguments.ts';
import { MoeError } from '../errors.ts';
import { type Config, caps } from './config.ts';
import { exists, readWhole } from './files.ts';
import { isObject, parseObject } from './json.ts';
import { isSize } from './safetensors.ts';

/** Ids of tokens; each must be in the vocabulary. */
export type TokenIds = Int32Array | readonly number[];

export interface DecodeOptions {
  /** Leave out tokens such as <|endoftext|>. Default false. */
  readonly skipSpecialTokens?: boolean | undefined;
}

/** Decodes ids as they come. The pieces joined are the decoded whole; no piece ends inside a UTF-8 character. */
export interface DecodeStream {
  /** Text that the id completes, often ''. Throws INVALID_ARGUMENT. */
  push(id: number): string;
  /** What is left, with U+FFFD for an incomplete character. */
  end(): string;
}

const maximumTokenizerBytes = 200_000_000;
const maximumSettingsBytes = 10_000_000;
const modelTypes: readonly unknown[] = ['BPE', 'WordPiece', 'Unigram'];
const replacement = '\uFFFD';

export class Tokenizer {
  /** Highest id + 1, added tokens included. */
  readonly vocabularySize: number;
  /** Ids that end a text: of generation_config.json, else of config.json, else of tokenizer_config.json; may be empty. */
  readonly eosIds: readonly number[];
  readonly #library: Library;
  readonly #file: string;

  private constructor(library: Library, file: string, vocabularySize: number, eosIds: readonly number[]) {
    this.#library = library;
    this.#file = file;
    this.vocabularySize = vocabularySize;
    this.eosIds = eosIds;
  }

  /**
   * Loads tokenizer.json, and tokenizer_config.json and generation_config.json where they are there. `config`: the folder's config.json.
   *
   * Rejects with TOKENIZER_INVALID (missing or broken), CONFIG_INVALID (end-of-text ids), FILE_UNREADABLE.
   */
  static async load(folder: string, config: Config = {}): Promise<Tokenizer> {
    const file = join(folder, 'tokenizer.json');
    if (!(await exists(file))) throw broken(file, 'a tokenizer.json', 'none');
    const content = parseObject(await readWhole(file, maximumTokenizerBytes), 'TOKENIZER_INVALID', file, {
      duplicates: false,
    });
    const settings = await readSettings(join(folder, 'tokenizer_config.json'), 'TOKENIZER_INVALID');
    const generation = await readSettings(join(folder, 'generation_config.json'), 'CONFIG_INVALID');
    const vocabularySize = checkContent(content, file);
    const library = guard(file, () => new Library(content, settings));
    const eosIds =
      idsOf(generation, 'generation_config.json: eos_token_id') ??
      idsOf(config, 'eos_token_id') ??
      eosOf(settings, library);
    return new Tokenizer(library, file, vocabularySize, eosIds);
  }

  /**
   * Token ids of a text, with the special tokens that the file's post-processor adds unless `addSpecialTokens` is false.
   * Linear in the length; about 0.9 MB a second.
   *
   * Throws INVALID_ARGUMENT (no string), TOKENIZER_INVALID (the vocabulary cannot express the text).
   */
  encode(text: string, options: { addSpecialTokens?: boolean } = {}): Int32Array {
    if (typeof text !== 'string') throw invalid('text', 'a string', text);
    const { addSpecialTokens = true } = requireObject(options);
    const { ids } = guard(this.#file, () => this.#library.encode(text, { add_special_tokens: addSpecialTokens }));
    const bad = ids.findIndex((id: unknown) => !isSize(id) || id >= this.vocabularySize);
    if (bad !== -1) throw broken(this.#file, 'a token for every part of the text', `${show(ids[bad])} at ${bad}`);
    return Int32Array.from(ids);
  }

  /** Whether the vocabulary has an id; models may have more rows than their tokenizer has tokens. */
  has(id: number): boolean {
    return isSize(id) && this.#library.id_to_token(id) !== undefined;
  }

  /** Text of ids. Spaces stay as they are (no clean-up). Throws INVALID_ARGUMENT for an id outside the vocabulary. */
  decode(ids: TokenIds, options: DecodeOptions = {}): string {
    if (!Array.isArray(ids) && viewName(ids) === '') throw invalid('ids', 'an array of ids', ids);
    const list = Array.from(ids, (id) => this.#known(id));
    return this.#text(list, requireObject(options));
  }

  /** A decoder for ids that come one by one. */
  decodeStream(options: DecodeOptions = {}): DecodeStream {
    requireObject(options);
    // Some decoders treat the first token differently, so the last ids already given out stay in front as context.
    let context: number[] = [];
    let pending: number[] = [];
    let given = 0;
    const take = (final: boolean): string => {
      const before = this.#text(context, options).length;
      const text = this.#text([...context, ...pending], options).slice(before);
      const complete = final || !text.endsWith(replacement);
      const stop = complete ? text.length : text.length - 1;
      const piece = text.slice(given, stop);
      given = Math.max(given, stop);
      if (complete && pending.length > 0) {
        context = pending;
        pending = [];
        given = 0;
      }
      return piece;
    };
    return {
      push: (id) => {
        pending.push(this.#known(id));
        return take(false);
      },
      end: () => take(true),
    };
  }

  #known(id: number): number {
    if (this.has(id)) return id;
    throw invalid('ids', `ids of the vocabulary (below ${this.vocabularySize})`, id);
  }

  #text(ids: number[], options: DecodeOptions): string {
    if (ids.length === 0) return '';
    const skip = options.skipSpecialTokens === true;
    return guard(this.#file, () =>
      this.#library.decode(ids, { skip_special_tokens: skip, clean_up_tokenization_spaces: false }),
    );
  }
}

function broken(argument: string, expected: string, received: string, cause?: unknown): MoeError {
  return new MoeError('TOKENIZER_INVALID', { argument, expected, received, cause });
}

/** Runs the library; a TypeError of its depths says no more than that the file is not what it needs. */
function guard<T>(file: string, body: () => T): T {
  try {
    return body();
  } catch (cause) {
    throw broken(
      file,
      'a tokenizer that the library takes',
      cause instanceof Error ? cause.message : String(cause),
      cause,
    );
  }
}

async function readSettings(
  path: string,
  code: 'TOKENIZER_INVALID' | 'CONFIG_INVALID',
): Promise<Record<string, unknown>> {
  return (await exists(path)) ? parseObject(await readWhole(path, maximumSettingsBytes), code, path) : {};
}

/** Checks vocabulary, merges and added tokens; gives the vocabulary's size. */
function checkContent(content: Record<string, unknown>, file: string): number {
  const refuse = (what: string, expected: string, received: unknown): MoeError =>
    broken(`${file}: ${what}`, expected, show(received));
  const { model, added_tokens: added } = content;
  if (!isObject(model)) throw refuse('model', 'an object', model);
  // The library guesses at a type it does not know. Older files have none.
  if (model.type !== undefined && !modelTypes.includes(model.type))
    throw refuse('model.type', modelTypes.join(', '), model.type);
  const used = new Set<number>();
  let size = 0;
  const checkId = (what: string, id: unknown): void => {
    if (!isSize(id) || id >= caps.vocabulary) throw refuse(what, `an id below ${caps.vocabulary}`, id);
    used.add(id);
    size = Math.max(size, id + 1);
  };
  if (Array.isArray(model.vocab)) {
    for (const [id, item] of model.vocab.entries()) {
      const good = Array.isArray(item) && typeof item[0] === 'string' && typeof item[1] === 'number';
      if (!good) throw refuse(`model.vocab[${id}]`, 'a token with a score', item);
      checkId(`model.vocab[${id}]`, id);
    }
  } else if (isObject(model.vocab)) {
    for (const [token, id] of Object.entries(model.vocab)) {
      if (used.has(id as number)) throw refuse(`model.vocab ${show(token)}`, 'an id of its own', id);
      checkId(`model.vocab ${show(token)}`, id);
    }
  } else throw refuse('model.vocab', 'an object or a list', model.vocab);
  if (size === 0) throw refuse('model.vocab', 'at least one token', 'none');
  const isMerge = (merge: unknown): boolean =>
    typeof merge === 'string' ||
    (Array.isArray(merge) && merge.length === 2 && merge.every((part) => typeof part === 'string'));
  if (model.type === 'BPE' || model.merges !== undefined) {
    if (!Array.isArray(model.merges)) throw refuse('model.merges', 'a list', model.merges);
    const bad = model.merges.findIndex((merge) => !isMerge(merge));
    if (bad !== -1) throw refuse(`model.merges[${bad}]`, 'two tokens', model.merges[bad]);
  }
  if (!Array.isArray(added)) throw refuse('added_tokens', 'a list', added);
  for (const [index, token] of added.entries()) {
    const what = `added_tokens[${index}]`;
    // The splitter would never get past an empty token.
    if (!isObject(token) || typeof token.content !== 'string' || token.content === '') {
      throw refuse(what, 'an object with a content that is not empty', isObject(token) ? token.content : token);
    }
    checkId(what, token.id);
  }
  return size;
}

/** Ids under eos_token_id: one, a list, or undefined where there are none. */
function idsOf(config: Config, argument: string): number[] | undefined {
  const value = Object.hasOwn(config, 'eos_token_id') ? config.eos_token_id : undefined;
  if (value === undefined || value === null) return undefined;
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  if (!ids.every((id) => isSize(id) && id < caps.vocabulary)) {
    throw new MoeError('CONFIG_INVALID', { argument, expected: 'a token id or a list of them', received: show(value) });
  }
  return ids as number[];
}

function eosOf(settings: Record<string, unknown>, library: Library): number[] {
  const token = isObject(settings.eos_token) ? settings.eos_token.content : settings.eos_token;
  const id = typeof token === 'string' ? library.token_to_id(token) : undefined;
  return id === undefined ? [] : [id];
}
