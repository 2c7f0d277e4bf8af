/**
 * The sending end of `kvasir bench kv`, in a process of its own: `MODEL BLOCKS TRANSFERS`.
 *
 * A real driver whose pool holds the KV of one prompt of BLOCKS blocks, which it offers so many times, as
 * transfers `kv-0`, `kv-1`, …: what a device that has just prefilled offers.
 */
import { runReader, shapeOf } from '@kvasir/agent/kv-shape'
import { OutgoingTransfer } from '@kvasir/agent/outgoing-transfer'
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { announceReady, watchParent } from '@kvasir/runtime/lifecycle'
import { startBenchDevice } from './bench-device.js'

/** Blocks written at once. */
const fillBlocks = 32

const [model = '', ...counts] = process.argv.slice(2)
const [blocks = 0, transfers = 0] = counts.map(Number)
watchParent(() => process.exit(1))

const { device, served, kv } = await startBenchDevice(model, blocks)
const ids = Array.from({ length: blocks }, (_, block) => block)
const { driver } = served
const { layers, blockLayerBytes, digest } = served.model
for (let layer = 0; layer < layers; layer += 1) {
  for (let first = 0; first < blocks; first += fillBlocks) {
    const some = Uint32Array.from(ids.slice(first, first + fillBlocks))
    const floats = new Float32Array((some.length * blockLayerBytes) / Float32Array.BYTES_PER_ELEMENT)
    for (let i = 0; i < floats.length; i += 1) floats[i] = Math.sin(layer + first + i)
    await driver.writeBlocks(layer, some, new Uint8Array(floats.buffer))
  }
}
const tokens = blocks * BLOCK_TOKENS
for (let number = 0; number < transfers; number += 1) {
  const transfer = new OutgoingTransfer({
    transferId: `kv-${number}`,
    shape: shapeOf(served),
    tokens,
    pacer: device.pacer,
    mergeLayers: device.mergeLayers,
    clock: device.clock,
    acknowledgeMs: device.limits.acknowledgeMs,
    opened() {},
    pin: () => runReader(served, ids, tokens),
    unpin: () => device.transfers.withdraw(transfer),
  })
  // What ends a transfer is the receiver's to tell.
  transfer.done.promise.catch(() => {})
  device.transfers.offer(transfer)
  transfer.admitted()
  transfer.present(tokens)
  transfer.prefillEnded(0)
}
announceReady({ endpoint: kv.address, digest })
