/** Files of a model from one machine to another, over real gRPC: interrupted, damaged, lied about, out of disk. */
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import * as promises from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { inspectModel } from '@kvasir/engine/model-plan'
import { EXACT } from '@kvasir/engine/numerics'
import { writeTestModel } from '@kvasir/engine/testing/test-model'
import type { LoadedModel } from '@kvasir/proto/kvasir/capability/v1/capability'
import {
  type DescribeResponse,
  type FetchResponse,
  type ModelServiceServer,
  ModelServiceService,
} from '@kvasir/proto/kvasir/model/v1/model'
import { systemClock } from '@kvasir/runtime/clock'
import {
  CancelledError,
  KvasirError,
  NotFoundError,
  OverloadedError,
  UnreachableError,
  UnsupportedError,
} from '@kvasir/runtime/errors'
import { createLogger } from '@kvasir/runtime/log'
import { type RpcServer, type Send, serverStream, startRpcServer, unary } from '@kvasir/runtime/rpc-server'
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { ModelCache } from './model-cache.js'
import { fetchModel } from './model-fetch.js'
import { ModelLibrary } from './model-library.js'
import type { ModelPeer, ModelPeers } from './model-peers.js'
import { modelService } from './model-service.js'
import { ModelSource } from './model-source.js'
import { Pacer } from './pacer.js'

vi.mock('node:fs/promises', { spy: true })

const log = createLogger({ service: 'test', terminal: false })
const MEGABYTE = 1 << 20
let folder: string
let digest: string
let name: string
/** SHA-256 and bytes of each file. */
let original: Map<string, Buffer>
let cacheFolder: string
const cleanups: (() => unknown)[] = []

beforeAll(async () => {
  // Several messages long.
  folder = writeTestModel({ vocab_size: 20_000 })
  writeFileSync(join(folder, 'tokenizer.json'), '{"model":{}}')
  digest = (await inspectModel({ model: folder, numerics: EXACT })).digest
  name = basename(folder)
  original = filesIn(folder)
  return () => rmSync(folder, { recursive: true })
})
beforeEach(() => {
  cacheFolder = mkdtempSync(join(tmpdir(), 'kvasir-models-'))
})
afterEach(async () => {
  await Promise.all(cleanups.splice(0).map((clean) => clean()))
  rmSync(cacheFolder, { recursive: true, force: true })
})

function filesIn(path: string): Map<string, Buffer> {
  return new Map(readdirSync(path).map((file) => [file, readFileSync(join(path, file))]))
}

const sha256 = (data: Buffer) => createHash('sha256').update(data).digest('hex')

async function listen(implementation: ModelServiceServer): Promise<RpcServer> {
  const services = [{ definition: ModelServiceService, implementation }]
  const server = await startRpcServer({ host: '127.0.0.1', port: 0, services })
  cleanups.push(() => server.close())
  return server
}

interface Wrong {
  /** Called before each message; may throw. */
  readonly before?: (sent: number) => void | Promise<void>
  readonly change?: (data: Buffer, file: string) => Buffer
  readonly manifest?: (manifest: DescribeResponse) => DescribeResponse
  readonly files?: Map<string, Buffer>
}

/** An agent that serves the model, rightly or not, with the offsets that it was asked for. */
async function startPeer(deviceId: string, wrong: Wrong = {}): Promise<ModelPeer & { offsets: bigint[] }> {
  const library = new ModelLibrary(log)
  library.add(digest, folder)
  const offsets: bigint[] = []
  const right = modelService(deviceId, library, new Pacer(0, systemClock))
    .implementation as unknown as ModelServiceServer
  const files = [...(wrong.files ?? original)].map(([file, data]) => ({ file, data, sha256: sha256(data) }))
  const peer = (server: RpcServer) => ({
    deviceId,
    endpoint: server.address,
    isNear: false,
    model: { name, digest } as LoadedModel,
    offsets,
  })
  if (Object.keys(wrong).length === 0) return peer(await listen(right))
  const manifest: DescribeResponse = {
    digest,
    name,
    files: files.map(({ file, data, sha256 }) => ({
      ...{ name: file, sha256, bytes: BigInt(data.length), text: file !== 'model.safetensors' },
    })),
  }
  const server = await listen({
    describe: unary(async () => wrong.manifest?.(manifest) ?? manifest),
    fetch: serverStream(async (request, _call, send: Send<FetchResponse>) => {
      offsets.push(request.offset)
      const found = files.find((own) => own.sha256 === request.sha256)
      if (found === undefined) throw new NotFoundError('There is no such file.')
      const { file, data } = found
      let sent = 0
      for (let from = Number(request.offset); from < data.length; from += MEGABYTE) {
        await wrong.before?.(sent)
        const part = Buffer.from(data.subarray(from, from + MEGABYTE))
        await send({ data: wrong.change?.(part, file) ?? part })
        sent += 1
      }
    }),
  })
  return peer(server)
}

function peersOf(...peers: ModelPeer[]): ModelPeers {
  return { find: () => peers, onChange: () => () => {} }
}

function fetchFrom(peers: ModelPeers, signal = new AbortController().signal, giveUpMs = 100) {
  const cache = new ModelCache(cacheFolder, log)
  const progress: (readonly [bytes: number, of: number, from: string])[] = []
  const hooks = {
    signal,
    progress: (bytes: number, of: number, from: string) => void progress.push([bytes, of, from]),
  }
  const fetched = fetchModel({ peers, cache, clock: systemClock, log, giveUpMs }, { name, digest }, hooks)
  return { fetched, progress, cache }
}

async function failureOf(work: Promise<unknown>): Promise<KvasirError> {
  const outcome = await work.then(
    () => undefined,
    (error: unknown) => error,
  )
  if (outcome instanceof KvasirError) return outcome
  throw new Error(`It did not fail: ${outcome}`)
}

const fetchedFiles = () => filesIn(join(cacheFolder, digest, name))
const digestsOf = (files: Map<string, Buffer>) =>
  Object.fromEntries([...files].map(([file, data]) => [file, sha256(data)]))
const fetchedDigests = () => digestsOf(fetchedFiles())
const totalBytes = () => [...original.values()].reduce((sum, data) => sum + data.length, 0)

describe('a model is fetched', () => {
  it('whole, under its own name, and found again without anybody', async () => {
    const { fetched, progress, cache } = fetchFrom(peersOf(await startPeer('gpu-0')))
    const { spec } = await fetched
    expect(fetchedDigests()).toEqual(digestsOf(original))
    expect(await inspectModel({ model: spec, numerics: EXACT })).toMatchObject({ name, digest })
    expect(progress[0]).toEqual([0, totalBytes(), 'gpu-0'])
    expect(progress.at(-1)).toEqual([totalBytes(), totalBytes(), 'gpu-0'])
    expect(progress.length).toBeGreaterThan(6)
    expect(await cache.find(name, '')).toMatchObject({ spec, digest })
    expect(await cache.find('', digest)).toMatchObject({ spec, name })
    expect(await cache.find('another', '')).toBeUndefined()
    const again = fetchFrom(peersOf())
    expect((await again.fetched).spec).toBe(spec)
    expect(readdirSync(join(cacheFolder, digest)).sort()).toEqual(['model.json', name].sort())
  })

  it('from where it was interrupted, by another agent and in another life', async () => {
    const first = await startPeer('gpu-0', {
      before(sent) {
        if (sent === 2) throw new UnreachableError('The wire was cut.')
      },
    })
    const stopped = fetchFrom(peersOf(first), undefined, 0)
    const failure = await failureOf(stopped.fetched)
    expect(failure).toBeInstanceOf(UnreachableError)
    expect(failure.message).toContain('What has come is kept; load it again to go on from there.')
    const before = stopped.progress.at(-1)?.[0] ?? 0
    expect(before).toBeGreaterThan(2 * MEGABYTE - 1)
    const second = await startPeer('fpga-0', { before() {} })
    const { fetched, progress } = fetchFrom(peersOf(second))
    await fetched
    expect(progress[0]).toEqual([before, totalBytes(), 'fpga-0'])
    expect(second.offsets).toContain(BigInt(2 * MEGABYTE))
    expect(fetchedDigests()).toEqual(digestsOf(original))
  })

  it('from an agent that was busy at first', async () => {
    let refusals = 0
    const busy = await startPeer('gpu-0', {
      before() {
        if (refusals++ === 0)
          throw new OverloadedError('Device gpu-0 sends 8 files already; ask again later.')
      },
    })
    await fetchFrom(peersOf(busy), undefined, 2_000).fetched
    expect(refusals).toBeGreaterThan(1)
    expect(fetchedDigests()).toEqual(digestsOf(original))
  })

  it('from the next agent, where the first one is of a release that gives no files', async () => {
    const older = await startPeer('older', {
      manifest() {
        throw new UnsupportedError('There is no method Describe here.')
      },
    })
    const { fetched, progress } = fetchFrom(peersOf(older, await startPeer('gpu-0')))
    await fetched
    expect(new Set(progress.map(([, , from]) => from))).toEqual(new Set(['gpu-0']))
  })

  it('once, where two want it at the same time', async () => {
    const peer = await startPeer('gpu-0', { before() {} })
    const both = await Promise.all([fetchFrom(peersOf(peer)).fetched, fetchFrom(peersOf(peer)).fetched])
    expect(both[0].spec).toBe(both[1].spec)
    expect(peer.offsets).toHaveLength(original.size)
  })

  it('no further where nobody wants it any more, and what came stays', async () => {
    const stop = new AbortController()
    const peer = await startPeer('gpu-0', {
      before(sent) {
        if (sent === 1) stop.abort(new CancelledError('The model is wanted no more.'))
      },
    })
    const failure = await failureOf(fetchFrom(peersOf(peer), stop.signal).fetched)
    expect(failure.message).toBe('The model is wanted no more.')
    await fetchFrom(peersOf(await startPeer('gpu-0'))).fetched
    expect(fetchedDigests()).toEqual(digestsOf(original))
  })
})

describe('a model is not taken', () => {
  const flip = (data: Buffer, file: string) => {
    if (file === 'model.safetensors') data.writeUInt8(data.readUInt8(100) ^ 1, 100)
    return data
  }

  it('from an agent whose bytes are wrong, but from the next', async () => {
    const liar = await startPeer('liar', { change: flip })
    const { fetched, progress } = fetchFrom(peersOf(liar, await startPeer('honest')))
    await fetched
    expect(fetchedDigests()).toEqual(digestsOf(original))
    expect(new Set(progress.map(([, , from]) => from))).toEqual(new Set(['liar', 'honest']))
  })

  it('where all bytes are wrong: one sentence, and nothing wrong stays', async () => {
    const failure = await failureOf(fetchFrom(peersOf(await startPeer('liar', { change: flip }))).fetched)
    expect(failure.code).toBe('corrupt')
    expect(failure.message).toContain(
      'The file model.safetensors from device liar is damaged: it does not match its SHA-256. Put its files on this machine',
    )
    expect([...fetchedFiles().keys()]).not.toContain('model.safetensors.part')
  })

  it('where what was here before does not go with what comes: it is fetched anew, from the same agent', async () => {
    const path = join(cacheFolder, digest, name)
    mkdirSync(path, { recursive: true })
    writeFileSync(join(path, 'model.safetensors.part'), Buffer.alloc(3 * MEGABYTE, 7))
    writeFileSync(join(path, 'config.json'), 'half')
    const peer = await startPeer('gpu-0', { before() {} })
    await fetchFrom(peersOf(peer), undefined, 5_000).fetched
    expect(fetchedDigests()).toEqual(digestsOf(original))
    expect(peer.offsets).toContain(BigInt(3 * MEGABYTE))
  })

  it('under another digest than its own, though every file is as its manifest says', async () => {
    const config = Buffer.from(original.get('config.json')?.toString().replace('96', '96 ') ?? '')
    const liar = await startPeer('liar', { files: new Map([...original, ['config.json', config]]) })
    const failure = await failureOf(fetchFrom(peersOf(liar)).fetched)
    expect(failure).toMatchObject({
      code: 'corrupt',
      message: expect.stringContaining('are not those of the model'),
    })
    expect(await new ModelCache(cacheFolder, log).find('', digest)).toBeUndefined()
  })

  it.each(['../evil', 'a/b', '.hidden', '', 'x.part'])('with a file named %j', async (evil) => {
    const liar = await startPeer('liar', {
      manifest: (manifest) => ({
        ...manifest,
        files: manifest.files.map((file, i) => (i === 0 ? { ...file, name: evil } : file)),
      }),
    })
    const failure = await failureOf(fetchFrom(peersOf(liar)).fetched)
    expect(failure).toMatchObject({ code: 'corrupt', message: expect.stringContaining('is not the name of') })
    expect(readdirSync(join(cacheFolder, digest))).toEqual([])
  })

  it.each(['model.json', 'lock'])('under the name %j, which the cache has a file of', async (name) => {
    const liar = await startPeer('liar', { manifest: (manifest) => ({ ...manifest, name }) })
    expect(await failureOf(fetchFrom(peersOf(liar)).fetched)).toMatchObject({ code: 'corrupt' })
    await fetchFrom(peersOf(await startPeer('gpu-0'))).fetched
    expect(fetchedDigests()).toEqual(digestsOf(original))
  })

  it('where the disk has too little room, which is said before a byte comes', async () => {
    const free = { bavail: 10, bsize: 4_096 } as Awaited<ReturnType<typeof promises.statfs>>
    vi.mocked(promises.statfs).mockResolvedValueOnce(free)
    const failure = await failureOf(fetchFrom(peersOf(await startPeer('gpu-0'))).fetched)
    expect(failure).toMatchObject({ code: 'overloaded', param: 'modelCacheDir' })
    expect(failure.message).toContain(`The disk of ${cacheFolder} has no room for the model: 5.`)
    await fetchFrom(peersOf(await startPeer('gpu-0'))).fetched
    expect(fetchedDigests()).toEqual(digestsOf(original))
  })

  it('where the disk becomes full on the way: it is not left full, and the next try goes well', async () => {
    const { open } = await vi.importActual<typeof promises>('node:fs/promises')
    vi.mocked(promises.open).mockImplementation(async (path, ...rest) => {
      const handle = await open(path, ...rest)
      if (!String(path).endsWith('model.safetensors.part')) return handle
      let writes = 0
      const { write } = handle
      handle.write = ((...args: Parameters<typeof write>) => {
        writes += 1
        if (writes < 3) return write.apply(handle, args)
        throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' })
      }) as typeof write
      return handle
    })
    const failure = await failureOf(fetchFrom(peersOf(await startPeer('gpu-0'))).fetched)
    vi.mocked(promises.open).mockImplementation(open)
    expect(failure).toMatchObject({ code: 'overloaded', param: 'modelCacheDir' })
    expect([...fetchedFiles().keys()]).not.toContain('model.safetensors.part')
    await fetchFrom(peersOf(await startPeer('gpu-0'))).fetched
    expect(fetchedDigests()).toEqual(digestsOf(original))
  })
})

it('files that were removed since the model was loaded are those of no model', async () => {
  const copy = mkdtempSync(join(tmpdir(), 'kvasir-copy-'))
  for (const [file, data] of original) writeFileSync(join(copy, file), data)
  const library = new ModelLibrary(log)
  library.add(digest, copy)
  expect((await library.describe(digest))?.files).toHaveLength(original.size)
  rmSync(copy, { recursive: true })
  expect(await library.describe(digest)).toBeUndefined()
})

describe('where a model comes from', () => {
  const sourceWith = (peers: ModelPeers | undefined) =>
    new ModelSource({
      ...{ deviceId: 'npu-0', device: { inspectModel }, peers, clock: systemClock, log },
      ...{ cache: new ModelCache(cacheFolder, log), library: new ModelLibrary(log) },
    })
  const find = (peers: ModelPeers | undefined, model: string, asked = '') => {
    const expected: string[] = []
    const wanted = {
      model,
      digest: asked,
      profile: 'PROFILE_EXACT',
      kvBytes: undefined,
      peersMs: 50,
    } as const
    const found = sourceWith(peers).find(wanted, EXACT, {
      signal: new AbortController().signal,
      expects: ({ name }) => void expected.push(name),
      progress() {},
    })
    return { found, expected }
  }
  const peer = async () => {
    const found = await startPeer('gpu-0')
    return peersOf({ ...found, model: { ...found.model, parameters: 1_000n } })
  }

  it('is this machine first', async () => {
    const { found, expected } = find(await peer(), folder)
    expect(await found).toMatchObject({ spec: folder, plan: { digest } })
    expect(expected).toEqual([])
  })

  it('is an agent where it is not here, then what was fetched, also by a path of the same name', async () => {
    const first = find(await peer(), `/nowhere/${name}`)
    const { spec } = await first.found
    expect([first.expected, spec]).toEqual([[name], join(cacheFolder, digest, name)])
    const second = find(undefined, name)
    expect([(await second.found).spec, second.expected]).toEqual([spec, []])
  })

  it('is fetched anew where what was fetched has been changed since', async () => {
    const { spec } = await find(await peer(), name).found
    writeFileSync(
      join(spec, 'config.json'),
      readFileSync(join(spec, 'config.json'), 'utf8').replace('96', '96 '),
    )
    const again = find(await peer(), name)
    await again.found
    expect(again.expected).toEqual([name])
    expect(fetchedDigests()).toEqual(digestsOf(original))
  })

  it('is an agent where the one here has another digest than asked for', async () => {
    const other = writeTestModel({ num_hidden_layers: 1 })
    cleanups.push(() => rmSync(other, { recursive: true }))
    const { found, expected } = find(await peer(), other, digest)
    expect((await found).plan.digest).toBe(digest)
    expect(expected).toEqual([name])
    expect((await failureOf(find(peersOf(), other, 'ab'.repeat(32)).found)).message).toContain(
      'no agent serves it with digest abababababababab',
    )
  })

  it('is nowhere: one sentence', async () => {
    expect((await failureOf(find(peersOf(), 'raven').found)).message).toBe(
      'There is no model raven on the machine of device npu-0, and no agent of the cluster serves one named raven; name a folder, a GGUF file, or a model that an agent serves.',
    )
  })
})
