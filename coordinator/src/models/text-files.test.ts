import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { loadTextModel } from '@kvasir/engine/text/text-model'
import { ModelServiceClient, ModelServiceService } from '@kvasir/proto/kvasir/model/v1/model'
import { NotFoundError, UnreachableError } from '@kvasir/runtime/errors'
import { createRpcClient } from '@kvasir/runtime/rpc-client'
import { type RpcServer, serverStream, startRpcServer, unary } from '@kvasir/runtime/rpc-server'
import { projectRoot } from '@kvasir/runtime/state-folder'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { dropTextFiles, fetchFromAny, fetchTextFiles } from './text-files.js'

interface ServedFile {
  name: string
  bytes: Buffer
  text: boolean
  sha256: string
}

const signal = new AbortController().signal
const folder = join(projectRoot(), 'models/skald')
const digest = 'ab'.repeat(32)
const model = { name: 'tale', digest }
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')
const file = (name: string, bytes: Buffer, text = true): ServedFile => ({
  ...{ name, bytes, text },
  sha256: sha256(bytes),
})

let home: string
let homeBefore: string | undefined
let files: ServedFile[]
let describes: number
let server: RpcServer
let client: ModelServiceClient

beforeEach(async () => {
  homeBefore = process.env.KVASIR_HOME
  home = mkdtempSync(join(tmpdir(), 'kvasir-text-'))
  process.env.KVASIR_HOME = home
  files = ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json'].map((name) =>
    file(name, readFileSync(join(folder, name))),
  )
  describes = 0
  const fetched = (sha: string) => files.find((one) => one.sha256 === sha)
  server = await startRpcServer({
    host: '127.0.0.1',
    port: 0,
    services: [
      {
        definition: ModelServiceService,
        implementation: {
          describe: unary(async (request) => {
            describes += 1
            if (request.digest !== digest) throw new NotFoundError('There is no such model here.')
            const told = files.map(({ bytes, ...rest }) => ({ ...rest, bytes: BigInt(bytes.length) }))
            return { digest, name: 'tale', files: told }
          }),
          fetch: serverStream(async (request, _call, send) => {
            const bytes = fetched(request.sha256)?.bytes ?? Buffer.alloc(0)
            for (let at = Number(request.offset); at < bytes.length; at += 1 << 20) {
              await send({ data: bytes.subarray(at, at + (1 << 20)) })
            }
          }),
        },
      },
    ],
  })
  client = createRpcClient(ModelServiceClient, server.address)
})
afterEach(async () => {
  client.close()
  await server.close()
  if (homeBefore === undefined) delete process.env.KVASIR_HOME
  else process.env.KVASIR_HOME = homeBefore
  rmSync(home, { recursive: true, force: true })
})

const cached = () => readdirSync(join(home, 'cache/tokenizers'))

describe('text files', () => {
  test('come once, without weights, and make the text model', async () => {
    files.push(file('model.safetensors', Buffer.alloc(1_000), false))
    const got = await fetchTextFiles(client, model, signal)
    expect(readdirSync(got.folder)).not.toContain('model.safetensors')
    const [ours, theirs] = await Promise.all([loadTextModel(got), loadTextModel(folder)])
    expect(ours).toMatchObject({ name: 'tale', digest, stopTokens: theirs.stopTokens })
    expect(ours.encode('Once upon a time')).toEqual(theirs.encode('Once upon a time'))
    await fetchTextFiles(client, model, signal)
    expect(describes).toBe(1)
    expect(cached()).toEqual([digest])
    await dropTextFiles(got)
    expect(cached()).toEqual([])
    await fetchTextFiles(client, model, signal)
    expect(describes).toBe(2)
  })

  test('without a tokenizer among them are refused by what is missing, and leave nothing behind', async () => {
    files = files.filter(({ name }) => name !== 'tokenizer.json')
    await expect(fetchTextFiles(client, model, signal)).rejects.toThrow(
      'The model tale has no tokenizer.json on its devices; put it beside the weights there, and load the model again.',
    )
    expect(cached()).toEqual([])
  })

  test('that are not as they were told leave nothing behind', async () => {
    const good = [...files]
    const [first] = good
    if (!first) throw new Error('There are files.')
    for (const wrong of [
      { ...first, sha256: 'cd'.repeat(32) },
      { ...first, name: '../config.json' },
      { ...first, name: '.config.json' },
      { ...first, name: 'a/b.json' },
    ]) {
      files = [wrong, ...good.slice(1)]
      await expect(fetchTextFiles(client, model, signal)).rejects.toMatchObject({ code: 'corrupt' })
    }
    files = [file('model.safetensors', Buffer.alloc(10), false)]
    await expect(fetchTextFiles(client, model, signal)).rejects.toMatchObject({ code: 'unsupported' })
    expect(cached()).toEqual([])
  })

  test('of a GGUF file are its head, which holds the tokenizer', async () => {
    const whole = Buffer.alloc(33 << 20, 7)
    files = [file('tale.gguf', whole, false)]
    const got = await fetchTextFiles(client, model, signal)
    const kept = readFileSync(join(got.folder, 'tale.gguf'))
    expect(kept.subarray(0, 32 << 20).equals(whole.subarray(0, 32 << 20))).toBe(true)
    expect(kept.subarray(32 << 20).equals(Buffer.alloc(1 << 20))).toBe(true)
  })

  test('come from the next device where the first is gone', async () => {
    const gone = () => {
      throw new UnreachableError('It left.')
    }
    expect(await fetchFromAny([gone, () => client], model, signal)).toMatchObject(model)
    await expect(fetchFromAny([gone], { ...model, digest: 'ef'.repeat(32) }, signal)).rejects.toThrow(
      'It left.',
    )
  })
})
