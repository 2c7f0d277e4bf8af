/** What every device driver must do: load, step, move blocks. */
import { KvasirError } from '@kvasir/runtime/errors'
import type { DriverModel } from '../device-driver.js'
import { kvBlockBytes } from '../kv-format.js'
import { numericsName } from '../numerics.js'
import { type ConformanceCase, type ConformanceSuite, declares, isWireLossless } from './conformance-case.js'
import { alike, equal, failsWith, holds, same } from './expectations.js'
import { closeLoaded, openSequences, type SequenceContext } from './sequences.js'

const cases: readonly ConformanceCase<SequenceContext>[] = [
  {
    name: 'says what it is and takes steps of some size',
    async run({ device }) {
      const { name, kernels, rowsMax } = device.describe()
      holds(name !== '', 'The driver should have a name.')
      holds(declares({ device }, ['step']), 'The driver should declare the kernel step.')
      holds(rowsMax >= 1, `rowsMax should be at least 1, but is ${rowsMax}.`)
      equal(
        'The number of kernels of one name',
        new Set(kernels.map((kernel) => kernel.name)).size,
        kernels.length,
      )
      for (const { name: kernel, version, limits } of kernels) {
        equal(`The version of ${kernel}`, version, 1)
        for (const [limit, most] of Object.entries(limits)) {
          holds(most > 0, `The limit ${limit} of ${kernel} should be above 0, but is ${most}.`)
        }
      }
    },
  },
  {
    name: 'tells the sizes of its model, before it is loaded and after',
    async run({ device, facts, model, numerics }) {
      const { layers, vocabularySize, contextTokensMax, heads, kvHeads, headDim } = facts
      for (const [what, size] of Object.entries({
        layers,
        vocabularySize,
        contextTokensMax,
        kvHeads,
        headDim,
      })) {
        holds(size > 0, `${what} should be above 0, but is ${size}.`)
      }
      equal('Query heads divided by KV heads, the remainder', heads % kvHeads, 0)
      equal('blockLayerBytes', facts.blockLayerBytes, kvBlockBytes(facts, numerics.wire))
      equal('The numerics', numericsName(facts.numerics), numericsName(numerics))
      holds(
        /^[0-9a-f]{64}$/.test(facts.digest),
        `The digest should be 64 hexadecimal digits, but is "${facts.digest}".`,
      )
      const plan = await device.inspectModel({ model, numerics })
      equal('The digest before loading', plan.digest, facts.digest)
      equal('The name before loading', plan.name, facts.name)
      equal('poolBlockBytes before loading', plan.poolBlockBytes, facts.poolBlockBytes)
      equal('contextTokensMax before loading', plan.contextTokensMax, contextTokensMax)
    },
  },
  {
    name: 'refuses a model that is missing',
    async run({ device, numerics }) {
      const options = { model: '/no/such/model', numerics }
      await failsWith(
        'Loading it',
        device.loadModel({ ...options, kvBlocksMax: 4 }),
        'invalid_input',
        'not_found',
      )
      await failsWith('Inspecting it', device.inspectModel(options), 'invalid_input', 'not_found')
    },
  },
  {
    name: 'gives finite logits of the whole vocabulary',
    async run({ facts, prompt, runWhole }) {
      const logits = await runWhole(prompt(20, 0))
      equal('The number of logits', logits.length, facts.vocabularySize)
      holds(logits.every(Number.isFinite), 'Every logit should be finite.')
      holds(new Set(logits).size > 1, 'Logits should not all be the same.')
    },
  },
  {
    name: 'gives the same logits for a prompt in chunks',
    async run({ driver, blocksFor, part, prompt, runWhole }) {
      const tokens = prompt(45, 1)
      const whole = await runWhole(tokens)
      const blocks = blocksFor(45)
      await driver.step([part(blocks, tokens, 0, 16)])
      await driver.step([part(blocks, tokens, 16, 39)])
      const { logits } = await driver.step([part(blocks, tokens, 39, 45)])
      same('Logits of a prompt in three steps and in one', logits, whole)
    },
  },
  {
    name: 'gives the same logits token by token',
    async run({ driver, blocksFor, part, prompt, runWhole }) {
      const tokens = prompt(35, 2)
      const whole = await runWhole(tokens)
      const blocks = blocksFor(35)
      await driver.step([part(blocks, tokens, 0, 30)])
      for (let end = 31; end < 35; end += 1) await driver.step([part(blocks, tokens, end - 1, end)])
      const { logits } = await driver.step([part(blocks, tokens, 34, 35)])
      same('Logits after single tokens and after one step', logits, whole)
    },
  },
  {
    name: 'gives the same logits whatever else is in the batch',
    async run({ driver, facts, blocksFor, part, prompt, runWhole }) {
      const long = prompt(40, 3)
      const short = prompt(5, 4)
      const decoding = prompt(18, 5)
      const alone = [await runWhole(long), await runWhole(short), await runWhole(decoding)]
      const blocks = blocksFor(18)
      await driver.step([part(blocks, decoding, 0, 17)])
      const { logits } = await driver.step([
        part(blocksFor(40), long, 0, 40),
        part(blocksFor(5), short, 0, 5),
        part(blocks, decoding, 17, 18),
      ])
      const size = facts.vocabularySize
      alone.forEach((row, index) => {
        same(
          `Logits of sequence ${index} in a batch and alone`,
          logits.slice(index * size, (index + 1) * size),
          row,
        )
      })
    },
  },
  {
    name: 'gives logits to those sequences that want them, in order',
    async run({ driver, facts, blocksFor, part, prompt, runWhole }) {
      const tokens = prompt(9, 15)
      const whole = await runWhole(tokens)
      const mute = { ...part(blocksFor(7), prompt(7, 16), 0, 7), wantLogits: false }
      const { logits } = await driver.step([mute, part(blocksFor(9), tokens, 0, 9), mute])
      equal('The number of logits', logits.length, facts.vocabularySize)
      same('Logits of the one sequence that wants them', logits, whole)
    },
  },
  {
    name: 'continues a sequence whose blocks went over the wire',
    async run({ driver, facts, numerics, blocksFor, part, prompt, runWhole }) {
      const tokens = prompt(38, 6)
      const whole = await runWhole(tokens)
      const from = blocksFor(38)
      const to = blocksFor(38)
      await driver.step([part(from, tokens, 0, 37)])
      for (let layer = 0; layer < facts.layers; layer += 1) {
        const data = await driver.readBlocks(layer, from)
        equal('Bytes of the blocks', data.byteLength, from.length * facts.blockLayerBytes)
        await driver.writeBlocks(layer, to, data.slice())
        const again = await driver.readBlocks(layer, to)
        same('Blocks that were written and read again', again, data)
      }
      const { logits } = await driver.step([part(to, tokens, 37, 38)])
      if (isWireLossless(numerics)) same('Logits before and after', logits, whole)
      else alike('Logits before and after', logits, whole)
    },
  },
  {
    name: 'reports layers in order, each readable while the step goes on',
    async run({ driver, facts, blocksFor, part, prompt }) {
      const tokens = prompt(33, 7)
      const blocks = blocksFor(33)
      const layers: number[] = []
      const during: Promise<Uint8Array>[] = []
      await driver.step([part(blocks, tokens, 0, 33)], (layer) => {
        layers.push(layer)
        during.push(driver.readBlocks(layer, blocks.slice(0, 2)))
      })
      same(
        'The layers reported',
        Uint32Array.from(layers),
        Uint32Array.from({ length: facts.layers }, (_, i) => i),
      )
      for (const layer of layers) {
        const then = (await during[layer]) ?? new Uint8Array(0)
        same(
          `Layer ${layer} during the step and after it`,
          then,
          await driver.readBlocks(layer, blocks.slice(0, 2)),
        )
      }
    },
  },
  {
    name: 'runs a step anew after it was cancelled',
    async run({ driver, blocksFor, part, prompt, runWhole }) {
      const tokens = prompt(48, 8)
      const whole = await runWhole(tokens)
      const blocks = blocksFor(48)
      await driver.step([part(blocks, tokens, 0, 48)], () => driver.cancelStep())
      const again = await driver.step([part(blocks, tokens, 0, 48)])
      equal('Whether the second step was cancelled', again.cancelled, false)
      same('Logits of the second step and of one undisturbed', again.logits, whole)
    },
  },
  {
    name: 'runs a matrix call a layer, however many sequences share the step',
    async run({ driver, facts, blocksFor, part, prompt }) {
      const calls = async (count: number) => {
        const before = (await driver.stats()).matrixCalls
        const sequences = Array.from({ length: count }, (_, i) => part(blocksFor(3), prompt(3, 20 + i), 0, 3))
        await driver.step(sequences)
        return (await driver.stats()).matrixCalls - before
      }
      const one = await calls(1)
      equal('Matrix calls of five sequences', await calls(5), one)
      holds(
        one >= facts.layers,
        `Matrix calls should be at least one a layer, but are ${one} for ${facts.layers}.`,
      )
    },
  },
  {
    name: 'copies blocks of all layers with their bounds, also in a circle',
    async run({ driver, facts, blocksFor, part, prompt, runWhole }) {
      const tokens = prompt(48, 9)
      const whole = await runWhole(tokens)
      const from = blocksFor(48)
      await driver.step([part(from, tokens, 0, 47)])
      const last = facts.layers - 1
      const bounds = await driver.readBounds(last, from)
      const turned = Uint32Array.of(from[1] ?? 0, from[2] ?? 0, from[0] ?? 0)
      await driver.copyBlocks(from, turned)
      same('Bounds before and after', await driver.readBounds(last, turned), bounds)
      const { logits } = await driver.step([part(turned, tokens, 47, 48)])
      same('Logits before and after', logits, whole)
      await failsWith(
        'Copying three blocks to two',
        driver.copyBlocks(from, turned.slice(1)),
        'invalid_input',
      )
    },
  },
  {
    name: 'reads and copies what was there when it was asked, whatever is asked for next',
    async run({ driver, blocksFor, part, prompt }) {
      const blocks = blocksFor(48)
      const copies = blocksFor(48)
      await driver.step([part(blocks, prompt(48, 10), 0, 48)])
      const before = await driver.readBlocks(0, blocks)
      const boundsBefore = await driver.readBounds(0, blocks)
      // The blocks are given to another sequence as soon as reading and copying them was asked for.
      const read = driver.readBlocks(0, blocks)
      const bounds = driver.readBounds(0, blocks)
      const copied = driver.copyBlocks(blocks, copies)
      const during: Promise<Uint8Array>[] = []
      const zeros = new Uint8Array(before.length)
      const step = driver.step([part(blocks, prompt(48, 11), 0, 48)], (layer) => {
        if (layer !== 0) return
        // So too while a step runs.
        during.push(driver.readBlocks(0, copies))
        void driver.writeBlocks(0, copies, zeros.slice())
      })
      await Promise.all([step, copied])
      same('Blocks read before the step was issued', await read, before)
      same('Bounds read before the step was issued', await bounds, boundsBefore)
      same('Copies read before they were overwritten', (await during[0]) ?? zeros, before)
      same('Copies after they were overwritten', await driver.readBlocks(0, copies), zeros)
      const after = await driver.readBlocks(0, blocks)
      holds(Buffer.compare(after, before) !== 0, 'The step should have changed the blocks.')
    },
  },
  {
    name: 'gives the bounds of keys, and keeps those it was given until the block is written',
    async run({ driver, facts, blocksFor, part, prompt }) {
      const blocks = blocksFor(16)
      const tokens = prompt(16, 12)
      await driver.step([part(blocks, tokens, 0, 16)])
      const own = await driver.readBounds(0, blocks)
      equal('Bytes of the bounds', own.byteLength, facts.kvHeads * 2 * facts.headDim * 4)
      const given = new Uint8Array(new Float32Array(own.byteLength / 4).fill(2.5).buffer)
      await driver.writeBounds(0, blocks, given.slice())
      same('Bounds that were given', await driver.readBounds(0, blocks), given)
      await driver.step([part(blocks, tokens, 0, 16)])
      same('Bounds after the block was written again', await driver.readBounds(0, blocks), own)
      await failsWith(
        'Too few bytes of bounds',
        driver.writeBounds(0, blocks, given.slice(1)),
        'invalid_input',
      )
    },
  },
  {
    name: 'refuses what is outside the pool or the model, and goes on',
    async run({ driver, facts, blocksFor, prompt, runWhole }) {
      const outside = Uint32Array.of(1_000_000)
      const some = blocksFor(16)
      const bytes = () => new Uint8Array(facts.blockLayerBytes)
      await failsWith('Reading a block outside the pool', driver.readBlocks(0, outside), 'invalid_input')
      await failsWith('Writing one', driver.writeBlocks(0, outside, bytes()), 'invalid_input')
      await failsWith('Copying one', driver.copyBlocks(some, outside), 'invalid_input')
      await failsWith('Reading a layer too many', driver.readBlocks(facts.layers, some), 'invalid_input')
      await failsWith('Writing too few bytes', driver.writeBlocks(0, some, bytes().slice(1)), 'invalid_input')
      await runWhole(prompt(5, 17))
    },
  },
  {
    name: 'unloads a model while its step runs, and goes on',
    async run({ device, model, numerics, blocksFor, part, prompt, runWhole }) {
      const second = await loadedOrFull(device.loadModel({ model, numerics, kvBlocksMax: 4 }))
      if (second === undefined) return
      let unloaded: Promise<void> | undefined
      const tokens = prompt(40, 21)
      const step = second.step([part(Uint32Array.of(3, 1, 0), tokens, 0, 40)], () => {
        unloaded ??= second.unload()
      })
      // Which of the two comes first is a matter of time; both end.
      await step.catch(() => {})
      await unloaded
      await runWhole(prompt(9, 22), blocksFor(9))
    },
  },
  {
    name: 'holds the model a second time, with a pool of its own, and frees it',
    async run({ device, driver, model, numerics, blocksFor, part, prompt, runWhole }) {
      const tokens = prompt(21, 18)
      const whole = await runWhole(tokens)
      const blocks = blocksFor(21)
      await driver.step([part(blocks, tokens, 0, 20)])
      const second = await loadedOrFull(device.loadModel({ model, numerics, kvBlocksMax: 4 }))
      if (second === undefined) return
      const own = Uint32Array.of(2, 0)
      await second.step([part(own, prompt(21, 19), 0, 21)])
      const both = await Promise.all([
        driver.step([part(blocks, tokens, 20, 21)]),
        second.step([part(own, tokens, 0, 21)]),
      ])
      for (const { logits } of both) same('Logits of the same prompt in both', logits, whole)
      await second.unload()
      await failsWith(
        'A read of a model that was unloaded',
        second.readBlocks(0, own),
        'not_found',
        'cancelled',
        'internal',
      )
      await runWhole(tokens)
    },
  },
]

/** Undefined where the device says that it holds one model alone. */
async function loadedOrFull(loading: Promise<DriverModel>): Promise<DriverModel | undefined> {
  try {
    return await loading
  } catch (thrown) {
    if (['overloaded', 'unsupported'].includes(KvasirError.from(thrown).code)) return undefined
    throw thrown
  }
}

export const stepSuite: ConformanceSuite<SequenceContext> = {
  name: 'steps and blocks',
  open: openSequences,
  close: closeLoaded,
  cases,
}
