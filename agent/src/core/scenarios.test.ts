/**
 * Transcripts that a person can read: each file in scenarios/ holds what the core is told
 * (`@time event key=value …`) and, indented, what it answers. The test plays the events
 * of a file and compares the whole text; `vitest -u` writes the answers anew.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { AgentCore } from './agent-core.js'
import type { CoreAction, CoreEvent } from './events.js'

const FOLDER = new URL('../../src/core/scenarios/', import.meta.url)

interface Told {
  readonly nowMs: number
  readonly type: string
  text(key: string): string
  count(key: string): number
  /** `a,b,c`. */
  list(key: string): string[]
}

function parse(line: string): Told {
  const [time = '', type = '', ...pairs] = line.split(/\s+/)
  const values = new Map(pairs.map((pair) => pair.split('=') as [string, string]))
  const text = (key: string) => values.get(key) ?? ''
  const count = (key: string) => Number(values.get(key) ?? 0)
  const list = (key: string) => text(key).split(',').filter(Boolean)
  return { nowMs: Number(time.slice(1)), type, text, count, list }
}

function eventOf({ type, text, count, list }: Told): CoreEvent {
  const deviceId = text('device') || 'fpga-0'
  const lease = { deviceId, incarnation: BigInt(text('life') || 7), counter: BigInt(text('lease') || 0) }
  const placement = { requestId: text('request'), epoch: count('epoch') || 1 }
  const sequence = count('sequence')
  const hashes = list('hashes')
  switch (type) {
    case 'reserve': {
      const purpose = text('purpose') === 'attend' ? 'attend' : 'decode'
      return { type, ...placement, tokens: count('tokens'), hashes, purpose }
    }
    case 'extend':
      return { type, lease, tokens: count('tokens') }
    case 'release':
      return { type, lease }
    case 'prefill':
      return {
        type,
        sequence,
        ...placement,
        promptTokens: count('prompt'),
        hashes,
        fetchTokens: count('fetch'),
      }
    case 'decode': {
      const [pages = '0', mode] = text('offload').split(':')
      return {
        type,
        sequence,
        lease,
        ...placement,
        promptTokens: count('prompt'),
        tokensMax: count('max'),
        firstIndex: count('first'),
        kv: text('kv') === 'pulled' ? 'pulled' : 'computed',
        hashes,
        fetchTokens: count('fetch'),
        offload:
          mode === undefined
            ? undefined
            : { pages: Number(pages), mode: mode === 'partial' ? mode : 'indices' },
      }
    }
    case 'attend':
      return {
        type,
        sequence,
        lease,
        ...placement,
        pages: count('pages'),
        reuse: text('reuse') !== 'no',
        hashes,
      }
    case 'fetched':
    case 'held':
      return { type, sequence, tokens: count('tokens') }
    case 'offloaded':
      return { type, sequence }
    case 'reads': {
      const reads = Float32Array.from(list('pages'), Number)
      return { type, sequence, reads, mass: reads }
    }
    case 'received':
      return { type, sequence, stopped: false }
    case 'sent':
      return { type, sequence, blocks: count('blocks') }
    case 'cancel':
      return { type: 'end', sequence, cause: 'cancelled' }
    case 'pin':
    case 'unpin':
      return { type, counter: lease.counter }
    case 'lend':
      return { type, hashes }
    case 'return':
      return { type, loan: count('loan') }
    case 'evict':
      return { type, drop: text('drop') === 'yes' }
    case 'step-finished': {
      const filled = list('filled').map((pair) => {
        const [id = '', hash = ''] = pair.split(':')
        return { sequence: Number(id), hash }
      })
      return {
        type,
        cancelled: text('cancelled') === 'yes',
        stopped: list('stopped').map(Number),
        failed: list('failed').map(Number),
        filled,
        reads: [],
        elapsedUs: 1_000 * count('took'),
      }
    }
    case 'tick':
    case 'drain':
    case 'end-all':
      return { type }
    default:
      throw new Error(`A scenario names an unknown event ${type}`)
  }
}

function answerOf(action: CoreAction): string {
  switch (action.type) {
    case 'granted':
      return `granted lease ${action.counter} for ${action.tokens} tokens${cached(action)}`
    case 'released':
      return action.wasAlive ? 'released' : 'was over already'
    case 'refused':
      return `refused: ${action.reason}`
    case 'admitted':
      return `sequence ${action.sequence} admitted under lease ${action.counter}, ${action.tokensAhead} tokens ahead${cached(action)}`
    case 'attached':
      return `sequence ${action.sequence} attached${cached(action)}`
    case 'lent':
      return action.loan === 0 ? 'nothing to lend' : `loan ${action.loan}: blocks ${action.blocks.join(' ')}`
    case 'evicted':
      return `${action.blocks} blocks evicted`
    case 'demote':
      return `demote ${action.blocks.map(({ hash, block, tier }) => `${hash} (block ${block} of ${tier})`).join(', ')}`
    case 'copy':
      return `copy ${action.from.map((from, index) => `${from}→${action.to[index]}`).join(' ')}`
    case 'kv-changed':
      return [...action.stored.map((hash) => `+${hash}`), ...action.removed.map((hash) => `-${hash}`)].join(
        ' ',
      )
    case 'run-step': {
      const rows = action.parts.map(({ sequence, role, start, count, wantLogits, firstPage }) =>
        role === 'decode'
          ? `${sequence} decodes ${start}${firstPage > 0 ? ` from page ${firstPage}` : ''}`
          : `${sequence} prefills ${start}..${start + count - 1}${wantLogits ? ' (end)' : ''}`,
      )
      return `step: ${rows.join(', ')}`
    }
    case 'repeat-less':
      return `the step stands for ${action.repeatable} at most`
    case 'cancel-step':
      return 'cancel the step'
    case 'sequence-ended':
      return `sequence ${action.sequence} ended: ${action.reason}`
    case 'lease-ended':
      return `lease ${action.counter} ended`
    case 'drained':
      return 'drained'
  }
}

function cached({ cachedTokens }: { readonly cachedTokens: number }): string {
  return cachedTokens === 0 ? '' : `, ${cachedTokens} cached`
}

/** The file with its answers. Its first line names the sizes of the device. */
function play(script: string): string {
  const lines = script.split('\n').filter((line) => !line.startsWith('  '))
  const sizes = parse(`@0 ${lines.find((line) => line.startsWith('device ')) ?? ''}`)
  const core = new AgentCore({
    deviceId: 'fpga-0',
    incarnation: 7n,
    leaseTtlMs: 1_000,
    tiers: sizes
      .text('blocks')
      .split('+')
      .map((blocks, index) => ({
        name: ['hbm', 'ddr'][index] ?? '',
        blocks: Number(blocks),
        bytesPerSecond: 400 / (1 + 3 * index),
      })),
    blockBytes: 1,
    tierPolicy: 'balanced',
    decodeSlots: sizes.count('slots'),
    waitingMax: sizes.count('waiting') || 4,
    contextTokensMax: 4_096,
    limits: { rowsMax: 512, chunkTokens: 256, sharedChunkTokens: 64 },
  })
  return lines
    .flatMap((line) => {
      if (!line.startsWith('@')) return [line]
      const told = parse(line)
      const answers = core.step(eventOf(told), told.nowMs).map((action) => `  ${answerOf(action)}`)
      const { usedBlocks, leases, tiers } = core.load()
      const cachedBlocks = tiers.reduce((sum, tier) => sum + tier.cachedBlocks, 0)
      const cache = cachedBlocks === 0 ? '' : `, ${cachedBlocks} cached`
      return [line, ...answers, `  (${usedBlocks} blocks used${cache}, ${leases} leases)`]
    })
    .join('\n')
}

describe('the agent core', () => {
  const files = readdirSync(FOLDER).filter((name) => name.endsWith('.txt'))

  it('has scenarios', () => {
    expect(files.length).toBeGreaterThan(0)
  })

  it.each(files)('%s', async (file) => {
    const path = new URL(file, FOLDER)
    await expect(play(readFileSync(path, 'utf8'))).toMatchFileSnapshot(path.pathname)
  })
})
