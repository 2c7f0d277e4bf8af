/**
 * Plays a scenario to the core and writes down what it does, as text for a person.
 *
 * A scenario is a list of lines. `> MS VERB …` is an event at that time, `#` a comment;
 * every other line is what the core did, and is written anew by each run. Between two
 * events time passes in ticks; devices that were advertised report every 500 ms until
 * they are `silent`, and answer health checks and say which blocks they hold while they
 * are not `dead`. `story:2-5` names the blocks 2 to 5 of prompts with `text=story`.
 * `attention=page-bounds:64 place=partial` is what a client may ask for. `models=small/exact,large/paper`
 * are a device's models, each with tokens of KV of its own where there are several; `loads` and `unloads`
 * change them while it lives.
 */
import type { AttentionWish } from '../attention-wish.js'
import { CoordinatorCore, TICK_MS } from '../coordinator-core.js'
import { type Decision, explain, filterCounts } from '../decision.js'
import type { CapabilityName, DeviceFacts, ProfileName } from '../facts.js'
import type { KvSnapshot } from '../kv-follower.js'
import type { CallName, CoordinatorAction, CoordinatorEvent, Fault } from '../protocol.js'
import {
  TEST_MODEL_DIGEST,
  TEST_VARIANT,
  type TestDevice,
  type TestModel,
  type TestUse,
  testDevice,
  testLoad,
} from './devices.js'
import { hashesOf } from './named-hashes.js'

const REPORT_MS = 500

interface PlayedDevice {
  readonly told: TestDevice
  facts: DeviceFacts
  reports: number
  nextReportMs: number
  isSilent: boolean
  isDead: boolean
  use: TestUse & { readonly draining?: boolean }
  /** By `digest/profile`. */
  readonly modelUse: Map<string, TestUse>
  readonly blocks: Set<string>
  kvEvents: number
}

/** The scenario with the core's actions in it. */
export function playTranscript(scenario: string): string {
  const player = new Player()
  for (const line of scenario.split('\n')) {
    if (line.startsWith('#') || line === '') player.lines.push(line)
    else if (line.startsWith('> ')) player.play(line)
  }
  return `${player.lines.join('\n').trimEnd()}\n`
}

class Player {
  readonly lines: string[] = []
  readonly #core = new CoordinatorCore({
    protocolVersion: 1,
    protocolVersionMin: 1,
    queuedMax: 4,
    placementDeadlineMs: 10_000,
    requestDeadlineMs: 600_000,
  })
  readonly #devices = new Map<string, PlayedDevice>()
  readonly #decisions = new Map<string, Decision>()
  #nowMs = 0
  #busConnected = true

  play(line: string): void {
    const [, time = '', verb = '', ...words] = line.split(/\s+/)
    this.#passUntil(Number(time))
    this.lines.push(line)
    const named = words.filter((word) => !word.includes('='))
    const settings = new Map(
      words.filter((word) => word.includes('=')).map((word) => word.split('=') as [string, string]),
    )
    this.#verb(verb, named, (key, fallback) => settings.get(key) ?? fallback)
  }

  #verb(verb: string, [first = '', second = '', third = '']: string[], setting: Setting): void {
    const number = (key: string, fallback: number): number => Number(setting(key, String(fallback)))
    const [requestId = '', epochText = ''] = first.split('.')
    const ofEpoch = { requestId, epoch: Number(epochText) }
    switch (verb) {
      case 'device': {
        const told: TestDevice = {
          deviceId: first,
          life: number('life', 1),
          capabilities: setting('can', 'prefill,decode').split(',') as CapabilityName[],
          decodeSlots: number('slots', 8),
          kvTokens: number('tokens', 65_536),
          opsPerSecond: number('gops', 100) * 1e9,
          bytesPerSecond: number('gbps', 10) * 1e9,
          protocolVersion: number('protocol', 1),
          modelled: setting('modelled', 'no') === 'yes',
          linkBytesPerSecond: number('link', 1) * 1e9,
          tier: setting('tier', 'hbm'),
          latencyMs: number('latency', 0.05),
          contextTokensMax: number('context', 2_048),
          ...(setting('kernels', 'all') === 'none' ? { kernels: [] } : {}),
          models: modelsNamed(setting('models', 'small/exact'), setting),
        }
        const facts = testDevice(told)
        const device: PlayedDevice = {
          told,
          facts,
          reports: 0,
          nextReportMs: this.#nowMs,
          isSilent: setting('reports', 'yes') === 'no',
          isDead: setting('lives', 'yes') === 'no',
          use: {},
          modelUse: new Map(),
          blocks: new Set<string>(),
          kvEvents: 0,
        }
        this.#devices.set(first, device)
        this.#step({ type: 'advertised', device: facts })
        if (!device.isSilent) this.#report(device)
        return
      }
      case 'load': {
        const device = this.#device(first)
        const use = {
          slots: number('slots', 0),
          kvTokens: number('tokens', 0),
          prefillTokens: number('waiting', 0),
        }
        if (second === '') device.use = { ...use, draining: setting('draining', 'no') === 'yes' }
        else device.modelUse.set(keyOf(modelNamed(second)), use)
        this.#report(device)
        return
      }
      case 'loads':
      case 'unloads': {
        const device = this.#device(first)
        const names = verb === 'loads' ? modelsNamed(second, setting) : []
        const left = verb === 'unloads' ? second.split(',').map((name) => keyOf(modelNamed(name))) : []
        const kept = (device.told.models ?? []).filter((model) => !left.includes(keyOf(model)))
        device.facts = testDevice({ ...device.told, models: [...kept, ...names] })
        this.#step({ type: 'advertised', device: device.facts })
        return
      }
      case 'silent':
        this.#device(first).isSilent = true
        return
      case 'dead':
        this.#device(first).isSilent = true
        this.#device(first).isDead = true
        return
      case 'withdraw':
        this.#step({ type: 'withdrawn', deviceId: first })
        return
      case 'bus':
        this.#busConnected = first === 'up'
        this.#step({ type: 'bus', connected: this.#busConnected })
        return
      case 'submit':
        this.#step({
          type: 'submit',
          requestId: first,
          modelDigest: digestNamed(setting('model', 'small')),
          profile: setting('profile', 'exact') as ProfileName,
          promptTokens: number('prompt', 100),
          maxTokens: number('max', 8),
          blockHashes: hashesOf(blocksOf(setting('text', ''), 0, Math.floor(number('prompt', 100) / 16) - 1)),
          attention: attentionOf(setting('attention', 'auto'), setting('place', 'auto')),
        })
        return
      case 'stores':
      case 'removes': {
        const device = this.#device(first)
        const blocks = blocksNamed(second)
        for (const block of blocks) device.blocks[verb === 'stores' ? 'add' : 'delete'](block)
        device.kvEvents += 1
        if (third === 'unheard') return
        this.#step({
          type: 'kv',
          change: {
            deviceId: first,
            incarnation: device.facts.incarnation,
            sequence: device.kvEvents,
            stored: hashesOf(verb === 'stores' ? blocks : []),
            removed: hashesOf(verb === 'removes' ? blocks : []),
            variant: TEST_VARIANT,
            tier: device.facts.tiers[0]?.name ?? '',
          },
        })
        return
      }
      case 'missed': {
        const { deviceId, incarnation } = this.#device(first).facts
        this.#step({
          type: 'kv-missed',
          device: { deviceId, incarnation },
          hashes: hashesOf(blocksNamed(second)),
        })
        return
      }
      case 'cancel':
        this.#step({ type: 'cancel', requestId: first })
        return
      case 'why': {
        const decision = this.#decisions.get(requestId)
        if (decision) this.lines.push(...describe(decision))
        return
      }
      case 'tokens':
        this.#step({ type: 'tokens', ...ofEpoch, firstIndex: number('from', 0), count: number('count', 1) })
        return
      case 'prefill-finished':
        this.#step({ type: 'prefill-finished', ...ofEpoch, stopped: second === 'stopped' })
        return
      case 'decode-finished':
        this.#step({
          type: 'decode-finished',
          ...ofEpoch,
          reason: second as 'stop' | 'length' | 'preempted',
        })
        return
      case 'failed':
        this.#step({
          type: 'call-failed',
          ...ofEpoch,
          call: second as CallName,
          fault: third as Fault,
          deviceId: setting('at', ''),
        })
        return
      case 'reserved':
      case 'kv-sent':
      case 'decode-started':
      case 'prefill-admitted':
        this.#step({ type: verb, ...ofEpoch })
        return
      case 'wait':
        return
      default:
        throw new Error(`The scenario says "${verb}", which nobody plays.`)
    }
  }

  #device(deviceId: string): PlayedDevice {
    const device = this.#devices.get(deviceId)
    if (!device) throw new Error(`The scenario has no device ${deviceId}.`)
    return device
  }

  #passUntil(untilMs: number): void {
    while (this.#nowMs + TICK_MS <= untilMs) {
      this.#nowMs += TICK_MS
      for (const device of this.#devices.values()) {
        const isHeard = !device.isSilent && this.#busConnected && this.#nowMs >= device.nextReportMs
        if (isHeard) this.#report(device)
      }
      this.#step({ type: 'tick' })
    }
    this.#nowMs = untilMs
  }

  #report(device: PlayedDevice): void {
    device.nextReportMs = this.#nowMs + REPORT_MS
    device.reports += 1
    const useOf = (model: TestModel): TestUse => device.modelUse.get(keyOf(model)) ?? {}
    this.#step({ type: 'load', load: testLoad(device.facts, device.reports, device.use, useOf) })
  }

  #step(event: CoordinatorEvent): void {
    for (const action of this.#core.step(event, this.#nowMs)) {
      this.lines.push(`${String(this.#nowMs).padStart(7)} ${write(action)}`)
      if (action.type === 'reserve') this.#decisions.set(action.requestId, action.decision)
      if (action.type === 'check-health') {
        const device = this.#devices.get(action.device.deviceId)
        const ok = device?.isDead === false && device.facts.incarnation === action.device.incarnation
        this.#step({ type: 'health', device: action.device, ok })
      }
      if (action.type === 'snapshot') {
        const device = this.#devices.get(action.device.deviceId)
        const snapshot = device && !device.isDead ? snapshotOf(device) : null
        this.#step({ type: 'kv-snapshot', device: action.device, snapshot })
      }
    }
  }
}

type Setting = (key: string, fallback: string) => string

function snapshotOf({ kvEvents, blocks }: PlayedDevice): KvSnapshot {
  return { sequence: kvEvents, groups: [{ variant: TEST_VARIANT, hashes: hashesOf([...blocks]) }] }
}

/** `small/exact,large/paper`: every one with `tokens` of its own where there are several. */
function modelsNamed(words: string, setting: Setting): TestModel[] {
  const names = words.split(',')
  const window = setting('window', '')
  return names.map((name) => ({
    ...modelNamed(name),
    ...(names.length > 1 ? { kvTokens: Number(setting('tokens', '65536')) } : {}),
    ...(window === '' ? {} : { slidingWindowTokens: Number(window) }),
    ...(name.endsWith('/paper') ? { numerics: setting('numerics', 'f32+kv8') } : {}),
  }))
}

function modelNamed(words: string): TestModel {
  const [name = '', profile = 'exact'] = words.split('/')
  return { digest: digestNamed(name), profile: profile as ProfileName }
}

function digestNamed(name: string): string {
  return name === 'small' ? TEST_MODEL_DIGEST : name
}

function keyOf({ digest, profile }: TestModel): string {
  return `${digest}/${profile}`
}

/** `story:2-5` */
function blocksNamed(words: string): string[] {
  const [, text = '', first = '', last = ''] = /^(\w+):(\d+)-(\d+)$/.exec(words) ?? []
  return blocksOf(text, Number(first), Number(last))
}

function blocksOf(text: string, first: number, last: number): string[] {
  if (text === '') return []
  return Array.from({ length: last - first + 1 }, (_, index) => `${text}.${first + index}`)
}

function attentionOf(words: string, place: string): AttentionWish | undefined {
  const [method = '', tokens] = words.split(':')
  if (method === 'auto' && place === 'auto') return undefined
  return {
    method: method as AttentionWish['method'],
    budget: tokens === undefined ? null : { tokens: Number(tokens) },
    place: place as AttentionWish['place'],
  }
}

function write(action: CoordinatorAction): string {
  switch (action.type) {
    case 'snapshot':
      return `ask ${action.device.incarnation} for its blocks`
    case 'check-health':
      return `check health of ${action.device.incarnation}`
    case 'forget-device':
      return `forget ${action.device.incarnation}`
    case 'reserve': {
      const { prefill, decode, attention, profile } = action.decision
      const { attend, attendPages, place } = attention
      const pages = attend ? ` and on ${attend.deviceId} for ${attendPages} pages (${place})` : ''
      const where = `on ${decode.deviceId} for ${action.tokens} tokens${pages}, to be prefilled on ${prefill.deviceId}`
      const numbers = profile === 'exact' ? '' : `, in profile ${profile}`
      return `reserve ${action.requestId}.${action.epoch} ${where}${numbers}`
    }
    case 'run': {
      const where = action.prefill
        ? `prefill on ${action.prefill.deviceId}, decode on ${action.decode.deviceId}`
        : `prefill and decode on ${action.decode.deviceId}`
      const again = action.replayed > 0 ? `, ${action.replayed} of them again` : ''
      return `run ${action.requestId}.${action.epoch} from token ${action.firstIndex}${again}: ${where}`
    }
    case 'emit':
      return action.count === 1
        ? `emit ${action.requestId} token ${action.from}`
        : `emit ${action.requestId} tokens ${action.from} to ${action.from + action.count - 1}`
    case 'abandon':
      return `abandon ${action.requestId}.${action.epoch}: ${action.cause}`
    case 'requeue':
      return `requeue ${action.requestId}: ${action.cause}`
    case 'finish':
      return `finish ${action.requestId}: ${action.reason}`
    case 'fail':
      return `fail ${action.requestId}, ${action.code}: ${action.message}`
    case 'cancelled':
      return `cancelled ${action.requestId}`
  }
}

function describe(decision: Decision): string[] {
  const lines = [explain(decision)]
  if (decision.numerics !== 'f32') lines.push(`decoded in ${decision.numerics}`)
  for (const { prefill, decode, ttftMs, tpotMs } of decision.weighed) {
    const times = `first token ${ttftMs.toFixed(2)} ms, then ${tpotMs.toFixed(2)} ms a token`
    lines.push(`${prefill.deviceId} + ${decode.deviceId}: ${times}`)
  }
  for (const { deviceId, tokens, why, fetchMs, computeMs } of decision.prefix.unused) {
    const times = fetchMs > 0 ? ` (${fetchMs.toFixed(2)} ms, or ${computeMs.toFixed(2)} ms to compute)` : ''
    lines.push(`not fetched: ${tokens} tokens on ${deviceId}, ${why}${times}`)
  }
  for (const { stage, devices, computeMs, transferMs, transferBytes } of decision.attention.stages) {
    const moving = `${transferMs.toFixed(3)} ms for moving ${Math.round(transferBytes)} bytes`
    lines.push(`${stage} on ${devices.join(' and ')}: ${computeMs.toFixed(3)} ms, ${moving}`)
  }
  for (const role of ['prefill', 'decode', 'attend'] as const) {
    const counts = Object.entries(filterCounts(decision.filtered[role]))
    if (counts.length > 0)
      lines.push(`not for ${role}: ${counts.map(([why, n]) => `${n} ${why}`).join(', ')}`)
  }
  return lines.map((line) => `          ${line}`)
}
