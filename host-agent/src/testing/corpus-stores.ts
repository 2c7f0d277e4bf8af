/** Corpus stores in a temporary folder, and shorthands for what tests do with them. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { CorpusRef, Document } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { systemClock } from '@kvasir/runtime/clock'
import { createLogger } from '@kvasir/runtime/log'
import type { IngestOutcome } from '../corpus/corpus.js'
import { CorpusStore } from '../corpus/corpus-store.js'

export const NEVER: AbortSignal = new AbortController().signal

export function refOf(name: string, salt = ''): CorpusRef {
  return { name, tenantSalt: Buffer.from(salt) }
}

export function jsonl(documents: readonly Partial<Document & { _id: unknown }>[]): Buffer {
  return Buffer.from(documents.map((document) => `${JSON.stringify(document)}\n`).join(''))
}

/** Documents `d0`, `d1`, … with these texts. */
export function numbered(texts: readonly string[], from = 0): Buffer {
  return jsonl(texts.map((text, index) => ({ _id: `d${from + index}`, text })))
}

export class StoreHome {
  readonly folder = mkdtempSync(join(tmpdir(), 'kvasir-corpora-'))
  private readonly open: CorpusStore[] = []

  store(bytesMax = 64 << 20): CorpusStore {
    const log = createLogger({ service: 'test', terminal: false })
    const store = new CorpusStore({ folder: this.folder, bytesMax, clock: systemClock, log })
    this.open.push(store)
    return store
  }

  async close(): Promise<void> {
    await Promise.all(this.open.map((store) => store.close()))
    rmSync(this.folder, { recursive: true, force: true })
  }
}

export async function ingest(
  store: CorpusStore,
  ref: CorpusRef,
  parts: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  signal: AbortSignal = NEVER,
): Promise<IngestOutcome> {
  const corpus = await store.corpus(ref, signal)
  return corpus.ingest(streamOf(parts), signal)
}

async function* streamOf(
  parts: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  for await (const part of parts) yield part
}

/** Ids of the documents found, best first, with their scores. */
export async function search(
  store: CorpusStore,
  ref: CorpusRef,
  query: string,
  k = 10,
): Promise<{ ids: string[]; scores: number[] }> {
  const corpus = await store.corpus(ref, NEVER)
  const { terms, version, meanLength, documents } = await corpus.prepare(query, NEVER)
  if (documents === 0n) return { ids: [], scores: [] }
  const found = await corpus.retrieve(
    version,
    { firstDocument: 0, documentCount: Number(documents) },
    {
      terms: Uint32Array.from(terms, ({ term }) => term),
      weights: Float64Array.from(terms, ({ weight }) => weight),
      meanLength,
      k,
    },
    NEVER,
  )
  const texts = await corpus.documents(version, [...found.documents], NEVER)
  return { ids: texts.map(({ id }) => id), scores: [...found.scores] }
}
