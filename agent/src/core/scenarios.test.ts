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
}

function parse(line: string): Told {
  const [time = '', type = '', ...pairs] = line.split(/\s+/)
  const values = new Map(pairs.map((pair) => pair.split('=') as [string, string]))
  const text = (key: string) => values.get(key) ?? ''
  return { nowMs: Number(time.slice(1)), type, text, count: (key) => Number(values.get(key) ?? 0) }
}

function eventOf({ type, text, count }: Told): CoreEvent {
  const deviceId = text('device') || 'fpga-0'
  const lease = { deviceId, incarnation: BigInt(text('life') || 7), counter: BigInt(text('lease') || 0) }
  const placement = { requestId: text('request'), epoch: count('epoch') || 1 }
  switch (type) {
    case 'reserve':
      return { type, ...placement, tokens: count('tokens') }
    case 'extend':
      return { type, lease, tokens: count('tokens') }
    case 'release':
      return { type, lease }
    case 'prefill':
      return { type, sequence: count('sequence'), ...placement, promptTokens: count('prompt') }
    case 'decode': {
      const facts = { sequence: count('sequence'), promptTokens: count('prompt'), tokensMax: count('max') }
      return {
        type,
        lease,
        ...placement,
        ...facts,
        firstIndex: count('first'),
        kv: text('kv') === 'pulled' ? 'pulled' : 'computed',
      }
    }
    case 'received':
      return { type, sequence: count('sequence'), stopped: false }
    case 'sent':
      return { type, sequence: count('sequence') }
    case 'cancel':
      return { type: 'end', sequence: count('sequence'), cause: 'cancelled' }
    case 'pin':
    case 'unpin':
      return { type, counter: lease.counter }
    case 'step-finished': {
      const stopped = text('stopped') === '' ? [] : text('stopped').split(',').map(Number)
      return { type, cancelled: text('cancelled') === 'yes', stopped, elapsedUs: 1_000 * count('took') }
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
      return `granted lease ${action.counter} for ${action.tokens} tokens`
    case 'released':
      return action.wasAlive ? 'released' : 'was over already'
    case 'refused':
      return `refused: ${action.reason}`
    case 'admitted':
      return `sequence ${action.sequence} admitted under lease ${action.counter}, ${action.tokensAhead} tokens ahead`
    case 'attached':
      return `sequence ${action.sequence} attached`
    case 'run-step': {
      const rows = action.parts.map(({ sequence, role, start, count, wantLogits }) =>
        role === 'decode'
          ? `${sequence} decodes ${start}`
          : `${sequence} prefills ${start}..${start + count - 1}${wantLogits ? ' (end)' : ''}`,
      )
      return `step: ${rows.join(', ')}`
    }
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

/** The file with its answers. Its first line names the sizes of the device. */
function play(script: string): string {
  const lines = script.split('\n').filter((line) => !line.startsWith('  '))
  const sizes = parse(`@0 ${lines.find((line) => line.startsWith('device ')) ?? ''}`)
  const core = new AgentCore({
    deviceId: 'fpga-0',
    incarnation: 7n,
    leaseTtlMs: 1_000,
    capacityBlocks: sizes.count('blocks'),
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
      const { usedBlocks, leases } = core.load()
      return [line, ...answers, `  (${usedBlocks} blocks used, ${leases} leases)`]
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
