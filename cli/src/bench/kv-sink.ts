/**
 * The receiving end of `kvasir bench kv`, in a process of its own: `MODEL BLOCKS PROMPTS ENDPOINT`.
 *
 * A real driver whose pool holds PROMPTS prompts of BLOCKS blocks. Whoever connects to its port has it lease memory
 * and pull as many prompts from ENDPOINT, as a decoding device does, and is told in JSON what that took. It starts
 * no process: after a fork every page of the pool would be written to at the price of a page fault.
 */
import { createServer } from 'node:net'
import { pullKv } from '@kvasir/agent/incoming-transfer'
import { runWriter, shapeOf } from '@kvasir/agent/kv-shape'
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import {
  KvServiceClient,
  type Lease,
  LeasePurpose,
  PullContent,
  PullTiming,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { InternalError, messageOf } from '@kvasir/runtime/errors'
import { announceReady, watchParent } from '@kvasir/runtime/lifecycle'
import { callUnary, createRpcClient } from '@kvasir/runtime/rpc-client'
import { startBenchDevice } from './bench-device.js'

const [model = '', blocksText, promptsText, endpoint = ''] = process.argv.slice(2)
const blocks = Number(blocksText)
const prompts = Number(promptsText)
watchParent(() => process.exit(1))

const { device, served, control, kv } = await startBenchDevice(model, blocks * prompts)
const { limits, clock } = device
const { runner } = served
const client = createRpcClient(KvServiceClient, control.address)
let transfers = 0

/** All prompts, one after the other, each into memory of its own. */
async function pullAll(): Promise<{ bytes: number; seconds: number }> {
  const leases: Lease[] = []
  try {
    let bytes = 0
    const begin = performance.now()
    for (let prompt = 0; prompt < prompts; prompt += 1) {
      const transferId = `kv-${transfers}`
      transfers += 1
      const lease = await reserve(transferId)
      // Until the end: a lease that no stream uses is over soon, and its memory would serve the next prompt.
      runner.apply({ type: 'pin', counter: lease.counter })
      leases.push(lease)
      bytes += await pull(lease, transferId)
    }
    return { bytes, seconds: (performance.now() - begin) / 1_000 }
  } finally {
    for (const lease of leases) {
      runner.apply({ type: 'unpin', counter: lease.counter })
      await callUnary(client, 'release', { lease })
    }
  }
}

async function reserve(requestId: string): Promise<Lease> {
  const { lease } = await callUnary(client, 'reserve', {
    requestId,
    epoch: 1,
    modelDigest: served.model.digest,
    profile: Profile.EXACT,
    tokens: blocks * BLOCK_TOKENS,
    purpose: LeasePurpose.ATTEND,
  })
  if (lease === undefined) throw new InternalError('Reserve gave no lease.')
  return lease
}

/** The bytes of one prompt. */
async function pull(lease: Lease, transferId: string): Promise<number> {
  const { bytes } = await pullKv({
    client: device.kvClient(endpoint),
    sourceDeviceId: 'kv-source',
    wanted: {
      transferId,
      timing: PullTiming.LAYERED,
      tokens: blocks * BLOCK_TOKENS,
      firstBlock: 0,
      content: PullContent.KV,
    },
    shape: shapeOf(served),
    lease,
    windowBytes: limits.windowBytes,
    write: runWriter(served.driver, runner.blocks(lease.counter)),
    clock,
    silenceMs: limits.silenceMs,
    signal: new AbortController().signal,
  })
  return bytes
}

const server = createServer((socket) => {
  socket.on('error', () => socket.destroy())
  pullAll().then(
    (result) => socket.end(JSON.stringify(result)),
    (error: unknown) => socket.end(JSON.stringify({ error: messageOf(error) })),
  )
})
server.listen(0, '127.0.0.1', () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') {
    const { digest, layers, blockLayerBytes } = served.model
    const endpoints = { control: control.address, kv: kv.address }
    announceReady({ port: address.port, ...endpoints, digest, layers, blockLayerBytes })
  }
})
