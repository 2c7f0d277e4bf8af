/**
 * The models that clients may name: those that this coordinator was given, and those that devices advertise,
 * whose tokenizers are fetched from them.
 *
 * T1 A name stands for one digest: the one that was told first, until no device has it any more.
 * T2 A model that was given stays; another goes when the last device that had it is forgotten or unloads it.
 * T3 A tokenizer that could not be had is tried again every RETRY_MS while some device has the model.
 */
import { loadTextModel, type TextFiles, type TextModel } from '@kvasir/engine/text/text-model'
import { withDeadline } from '@kvasir/runtime/deferred'
import { InvalidInputError, messageOf, UnavailableError } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'

const RETRY_MS = 3_000
/** A request waits for a tokenizer that is on its way for so long. */
const FIND_TIMEOUT_MS = 10_000
const COMPLAINTS_MAX = 1_000

export interface TextModels {
  /** Of every model that clients may name. */
  names(): readonly string[]
  /** Undefined where the name stands for nothing. */
  digestOf(name: string): string | undefined
  /** Undefined where the name stands for nothing, or its tokenizer is not here yet. */
  get(name: string): TextModel | undefined
  /**
   * Waits for a tokenizer that is on its way; undefined where the name stands for nothing. Throws
   * UnavailableError where the tokenizer cannot be had, DeadlineError.
   */
  find(name: string): Promise<TextModel | undefined>
}

/** A model that devices have. */
export interface OfferedModel {
  readonly name: string
  readonly digest: string
}

/** Tokenizes elsewhere, with the same models. */
export interface TextModelUser {
  add(digest: string, source: string | TextFiles): void
  drop(digest: string): void
}

export interface TextModelOptions<Offer extends OfferedModel> {
  readonly user: TextModelUser
  /** Gets an offered model's text files. */
  readonly fetch: (offer: Offer, signal: AbortSignal) => Promise<TextFiles>
  /** Forgets fetched files that cannot be used. */
  readonly drop: (files: TextFiles) => Promise<void>
  readonly log: Logger
}

interface Entry<Offer> {
  readonly name: string
  readonly digest: string
  readonly isGiven: boolean
  offer: Offer | undefined
  text: TextModel | undefined
  /** Settles when the try that is under way, or was the last, is over. Never rejects. */
  trial: Promise<void>
  error: string | undefined
  retry: NodeJS.Timeout | undefined
}

export class TextModelRegistry<Offer extends OfferedModel> implements TextModels {
  readonly #options: TextModelOptions<Offer>
  readonly #entries = new Map<string, Entry<Offer>>()
  readonly #complaints = new Set<string>()
  readonly #abort = new AbortController()

  constructor(options: TextModelOptions<Offer>) {
    this.#options = options
  }

  /** Takes a model that stays. Throws the loader's own error, one sentence, for what is missing or corrupt. */
  async give(spec: string): Promise<void> {
    const text = await loadTextModel(spec)
    const { name, digest } = text
    if (this.#entries.has(name)) {
      throw new InvalidInputError(
        `Two models are called "${name}". Rename one of them, or give --model only one.`,
        { param: 'model' },
      )
    }
    this.#options.user.add(digest, spec)
    const rest = { trial: Promise.resolve(), error: undefined, retry: undefined, offer: undefined }
    this.#entries.set(name, { name, digest, isGiven: true, text, ...rest })
  }

  /** Takes all that devices offer now. */
  update(offers: readonly Offer[]): void {
    if (this.#abort.signal.aborted) return
    for (const entry of [...this.#entries.values()]) {
      entry.offer = offers.find(({ name, digest }) => name === entry.name && digest === entry.digest)
      if (!entry.isGiven && !entry.offer) this.#remove(entry)
    }
    for (const offer of offers) {
      const known = this.#entries.get(offer.name)
      if (!known) this.#add(offer)
      else if (known.digest !== offer.digest) this.#complain(known, offer)
    }
  }

  names(): readonly string[] {
    return [...this.#entries.keys()]
  }

  digestOf(name: string): string | undefined {
    return this.#entries.get(name)?.digest
  }

  get(name: string): TextModel | undefined {
    return this.#entries.get(name)?.text
  }

  async find(name: string): Promise<TextModel | undefined> {
    const entry = this.#entries.get(name)
    if (!entry || entry.text) return entry?.text
    await withDeadline(entry.trial, FIND_TIMEOUT_MS, `waiting for the tokenizer of ${name}`)
    if (entry.text) return entry.text
    throw new UnavailableError(
      `The tokenizer of the model "${name}" could not be had: ${entry.error ?? 'it left; try again in a moment.'}`,
      { retryAfterMs: RETRY_MS },
    )
  }

  close(): void {
    this.#abort.abort(new UnavailableError('This coordinator is shutting down.'))
    for (const { retry } of this.#entries.values()) clearTimeout(retry)
  }

  #add(offer: Offer): void {
    const { name, digest } = offer
    const entry: Entry<Offer> = {
      ...{ name, digest, offer, isGiven: false },
      ...{ text: undefined, error: undefined, retry: undefined, trial: Promise.resolve() },
    }
    this.#entries.set(name, entry)
    entry.trial = this.#try(entry, offer)
  }

  async #try(entry: Entry<Offer>, offer: Offer): Promise<void> {
    const { log, user } = this.#options
    const { name, digest } = entry
    try {
      const source = name.startsWith('dummy:') ? name : await this.#options.fetch(offer, this.#abort.signal)
      const text = await loadTextModel(source).catch(async (error: unknown) => {
        if (typeof source !== 'string') await this.#options.drop(source)
        throw error
      })
      if (text.digest !== digest) {
        throw new InvalidInputError('the devices have another version of it than this coordinator')
      }
      if (this.#entries.get(name) !== entry) return
      user.add(digest, source)
      entry.text = text
      log.info({ model: name, digest }, `the model ${name} can be asked for`)
    } catch (thrown) {
      if (this.#entries.get(name) !== entry || this.#abort.signal.aborted) return
      const error = messageOf(thrown)
      if (error !== entry.error) log.warn({ model: name, digest }, `no tokenizer of ${name}: ${error}`)
      entry.error = error
      entry.retry = setTimeout(() => this.#again(entry), RETRY_MS)
      entry.retry.unref()
    }
  }

  #again(entry: Entry<Offer>): void {
    if (entry.offer) entry.trial = this.#try(entry, entry.offer)
  }

  #remove(entry: Entry<Offer>): void {
    clearTimeout(entry.retry)
    this.#entries.delete(entry.name)
    const isShared = [...this.#entries.values()].some(({ digest, text }) => text && digest === entry.digest)
    if (entry.text && !isShared) this.#options.user.drop(entry.digest)
    this.#options.log.info({ model: entry.name }, `no device has the model ${entry.name} any more`)
  }

  #complain(known: Entry<Offer>, { name, digest }: Offer): void {
    const key = `${name} ${digest}`
    if (this.#complaints.has(key) || this.#complaints.size >= COMPLAINTS_MAX) return
    this.#complaints.add(key)
    this.#options.log.warn(
      { model: name, served: known.digest, ignored: digest },
      `two models are called ${name}: requests get the one with digest ${known.digest.slice(0, 12)}, ` +
        `told first; rename the one with digest ${digest.slice(0, 12)}`,
    )
  }
}
