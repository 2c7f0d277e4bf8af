/** Corpora of a cluster over its HTTP API: documents go as a stream, as fast as the cluster takes them. */
import { open } from 'node:fs/promises'
import type { IngestReport, SearchReport } from '@kvasir/coordinator/retrieval/corpus-reports'
import { InvalidInputError, messageOf } from '@kvasir/runtime/errors'
import { callApi } from './api-client.js'

/** Longer than the cluster's own deadline for a search. */
const searchMsMax = 35_000

export interface DocumentSource {
  readonly chunks: AsyncIterable<Uint8Array>
  /** Undefined where that is not known before. */
  readonly bytes: number | undefined
}

/** A file, or stdin for "-". Throws InvalidInputError where the file cannot be read. */
export async function readDocuments(file: string): Promise<DocumentSource> {
  if (file === '-') return { chunks: process.stdin, bytes: undefined }
  try {
    const handle = await open(file)
    const stats = await handle.stat()
    if (stats.isDirectory()) {
      await handle.close()
      throw new InvalidInputError(`${file} is a folder: give a file of JSONL.`)
    }
    return {
      chunks: handle.createReadStream({ highWaterMark: 1 << 18 }),
      bytes: stats.isFile() ? stats.size : undefined,
    }
  } catch (error) {
    if (error instanceof InvalidInputError) throw error
    throw new InvalidInputError(
      `The file ${file} cannot be read (${messageOf(error)}): give a file of JSONL.`,
    )
  }
}

export function corpusPath(name: string): string {
  return `/v1/corpora/${encodeURIComponent(name)}`
}

/** @param onSent called with the bytes sent so far */
export async function addDocuments(
  url: string,
  name: string,
  chunks: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
  onSent: (bytes: number) => void = () => {},
): Promise<IngestReport> {
  const response = await callApi(url, `${corpusPath(name)}/documents`, {
    method: 'POST',
    stream: counted(chunks, onSent),
    headers: { 'content-type': 'application/x-ndjson' },
    signal,
  })
  return (await response.json()) as IngestReport
}

export async function searchCorpus(
  url: string,
  name: string,
  query: string,
  k: number,
): Promise<SearchReport> {
  const response = await callApi(url, `${corpusPath(name)}/search`, {
    method: 'POST',
    body: { query, k },
    signal: AbortSignal.timeout(searchMsMax),
  })
  return (await response.json()) as SearchReport
}

async function* counted(
  chunks: AsyncIterable<Uint8Array>,
  onSent: (bytes: number) => void,
): AsyncGenerator<Uint8Array> {
  let bytes = 0
  for await (const chunk of chunks) {
    yield chunk
    bytes += chunk.length
    onSent(bytes)
  }
}
