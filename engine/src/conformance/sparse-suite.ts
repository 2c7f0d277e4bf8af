/** What a driver must do that declares page-scores: attend to some pages, with another device's help. */
import { UnreachableError } from '@kvasir/runtime/errors'
import {
  BLOCK_TOKENS,
  type RemoteAttention,
  type SparseAttention,
  type StepSequence,
} from '../device-driver.js'
import { attendingDevice } from '../testing/attending-device.js'
import { type ConformanceCase, type ConformanceSuite, isWireLossless } from './conformance-case.js'
import { alike, close, equal, holds, same } from './expectations.js'
import { closeLoaded, openSequences, type SequenceContext } from './sequences.js'

const PROMPT = 90
const PAGES = Math.floor(PROMPT / BLOCK_TOKENS) + 1
const METHODS = ['page-bounds', 'random', 'recent'] as const
/** Sums in another order. */
const TOLERANCE = 1e-4

interface SparseContext extends SequenceContext {
  readonly blocks: Uint32Array
  /** The decode step after the prompt. */
  last(changes?: Partial<StepSequence>): StepSequence
}

function budget(method: SparseAttention['method'], pages: number) {
  return { attention: { method, pages, seed: 5 }, trackPages: true }
}

const cases: readonly ConformanceCase<SparseContext>[] = [
  ...METHODS.map(
    (method): ConformanceCase<SparseContext> => ({
      name: `of all pages, ${method} is dense attention to the bit`,
      needs: ['page-scores'],
      async run({ driver, last }) {
        const dense = await driver.step([last()])
        const { logits, attention } = await driver.step([last(budget(method, PAGES))])
        same(`Logits of ${method} and of dense attention`, logits, dense.logits)
        const reads = attention[0]?.reads.slice(0, PAGES) ?? new Float32Array(0)
        same('Shares of heads that read each page', reads, new Float32Array(PAGES).fill(1))
      },
    }),
  ),
  {
    name: 'reads as many pages as that, the newest always, and says so',
    needs: ['page-scores'],
    async run({ driver, facts, blocks, last }) {
      for (const method of METHODS) {
        const { attention, failed } = await driver.step([last(budget(method, 3))])
        const [use] = attention
        equal('The number of failed sequences', failed.length, 0)
        holds(use !== undefined, `${method}: what attention read should be told where trackPages is set.`)
        equal('Pages that are told of', use.reads.length, blocks.length)
        equal('The share of heads that read the newest page', use.reads[PAGES - 1], 1)
        const sum = (numbers: Float32Array) => Float32Array.of(numbers.reduce((all, one) => all + one, 0))
        close(`${method}: pages read by a head`, sum(use.reads), Float32Array.of(3), TOLERANCE)
        close(`${method}: weights of all pages`, sum(use.mass), Float32Array.of(1), TOLERANCE)
        equal('pagesRead', use.pagesRead, 3 * facts.layers * facts.kvHeads)
      }
    },
  },
  {
    name: 'chooses the same pages and gives the same answer with another device',
    needs: ['page-scores', 'choose-pages'],
    async run({ driver, facts, numerics, blocks, blocksFor, last }) {
      const there = blocksFor(4 * BLOCK_TOKENS)
      for (const count of [1, 2, 4, PAGES]) {
        const here = await driver.step([last(budget('page-bounds', count))])
        for (const mode of ['partial', 'indices'] as const) {
          // The device stands in for the other one: its kernels answer while its step waits.
          const remote = await attendingDevice(driver, blocks.slice(0, 4), driver, there, facts, mode)
          const own = mode === 'partial' ? blocks.slice(4) : blocks
          const { logits, attention, failed } = await driver.step([
            last({ ...budget('page-bounds', count), remote, blocks: own }),
          ])
          equal('The number of failed sequences', failed.length, 0)
          const what = `Logits with ${count} pages, alone and with another device (${mode})`
          if (isWireLossless(numerics) && numerics.weights === 'f32')
            close(what, logits, here.logits, TOLERANCE)
          else alike(what, logits, here.logits)
          equal('pagesRead', attention[0]?.pagesRead, here.attention[0]?.pagesRead)
        }
      }
    },
  },
  {
    name: 'fails a sequence alone whose other device is lost, and ends a wait when cancelled',
    needs: ['page-scores'],
    async run({ driver, facts, blocks, blocksFor, part, prompt, last }) {
      const alone = await driver.step([part(blocksFor(5), prompt(5, 14), 0, 5)])
      const lost: RemoteAttention = {
        pages: 2,
        mode: 'partial',
        ask: () => Promise.reject(new UnreachableError('fpga-1 is lost.')),
      }
      const own = blocks.slice(2)
      const { logits, failed } = await driver.step([
        last({ remote: lost, blocks: own }),
        part(blocksFor(5), prompt(5, 14), 0, 5),
      ])
      same(
        'Failed sequences',
        Uint32Array.from(failed, ({ sequence }) => sequence),
        Uint32Array.of(0),
      )
      equal('Why it failed', failed[0]?.error.code, 'unreachable')
      same('Logits of the other sequence', logits.slice(facts.vocabularySize), alone.logits)
      const silent: RemoteAttention = {
        ...lost,
        ask: () => {
          driver.cancelStep()
          return new Promise(() => {})
        },
      }
      const ended = await driver.step([last({ remote: silent, blocks: own })])
      equal('Whether a waiting step that was cancelled says so', ended.cancelled, true)
    },
  },
]

export const sparseSuite: ConformanceSuite<SparseContext> = {
  name: 'attention to some of the pages',
  async open(target) {
    const sequences = await openSequences(target)
    const { driver, blocksFor, part, prompt } = sequences
    const tokens = prompt(PROMPT + 1, 13)
    const blocks = blocksFor(PROMPT + 1)
    await driver.step([part(blocks, tokens, 0, PROMPT)])
    return {
      ...sequences,
      blocks,
      // The blocks of the prompt stay: those of the cases come after them.
      last: (changes = {}) => ({ ...part(blocks, tokens, PROMPT, PROMPT + 1), ...changes }),
    }
  },
  close: closeLoaded,
  cases,
}
