/** What every command prints with --json has the shape that docs/schemas says. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { projectRoot } from './support/cluster.js'
import { Workplace } from './support/commands.js'

const folder = join(projectRoot, 'docs/schemas')
const ajv = new Ajv2020({ strict: true, allErrors: true, allowUnionTypes: true })
let workplace: Workplace
let requestId = ''

async function json(command: string): Promise<unknown> {
  // What follows -- is another command's.
  const asJson = command.replace(/(?= -- |$)/, ' --json')
  const result = await workplace.run(`node cli/bin/kvasir.mjs ${asJson}`)
  expect(result.code, result.stderr).toBe(0)
  return JSON.parse(result.stdout)
}

function expectShape(name: string, document: unknown): void {
  const validate = ajv.compile(JSON.parse(readFileSync(join(folder, `${name}.json`), 'utf8')))
  validate(document)
  expect(validate.errors ?? []).toEqual([])
}

beforeAll(() => {
  workplace = new Workplace()
  const tales = '{"_id": "1", "title": "The Fox", "text": "A fox saw grapes."}\n{"_id": "2", "text": ""}\n'
  writeFileSync(join(workplace.home, 'tales.jsonl'), tales)
  writeFileSync(join(workplace.home, 'history.jsonl'), finishedRequests(12))
})
afterAll(() => workplace?.close())

/** As `kvasir calibrate --save` writes them: two devices and so many requests. */
function finishedRequests(count: number): string {
  const model = {
    ...{
      name: 'm',
      digest: 'd',
      profile: 'exact',
      numerics: 'f32',
      contextTokensMax: 512,
      layers: 2,
      variant: 'v',
    },
    ...{
      kvBytesPerToken: 512,
      poolBytesPerToken: 512,
      parameters: 1e6,
      weightBytes: 4e6,
      tiers: [],
      compute: [],
    },
  }
  const device = (deviceId: string) => ({
    ...{
      deviceId,
      incarnation: '1',
      protocolVersion: 1,
      protocolVersionMin: 1,
      modelled: false,
      kernels: [],
    },
    ...{ capabilities: ['prefill', 'decode'], models: [model], decodeSlots: 2 },
    tiers: [{ name: 'hbm', capacityBytes: 1e8, bytesPerSecond: 1e10 }],
    compute: [{ precision: 'f32', opsPerSecond: 1e11 }],
    link: { bytesPerSecond: 1e9, latencyMs: 0.1 },
  })
  const completion = (index: number) => ({
    requestId: `r${index}`,
    record: {
      ...{ modelDigest: 'd', profile: 'exact' },
      prefill: { deviceId: 'a', tokens: 40 + index, contextTokens: 0, computeMs: 2 + index / 10 },
      decode: { deviceId: 'b', steps: 10, stepsMs: 8 + (index % 3), batch: 1, contextTokens: 50 },
      transfer: { fromDeviceId: 'a', toDeviceId: 'b', bytes: 20_480, busyMs: 0.5 },
    },
    predicted: { ttftMs: 3, tpotMs: 1 },
    measured: { queueMs: 0, ttftMs: 4, tpotMs: 1.2 },
  })
  const lines = [
    ...['a', 'b'].map((deviceId) => ({ device: device(deviceId) })),
    ...Array.from({ length: count }, (_, index) => ({ completion: completion(index) })),
  ]
  return lines.map((line) => `${JSON.stringify(line)}\n`).join('')
}

const checked = new Set<string>()
/** In the order in which a user would type them; `down` ends the cluster that `up` started. */
const commands: readonly [name: string, command: () => string][] = [
  ['up', () => 'up --detach --port 0'],
  ['run', () => 'run "Once upon a time" --max-tokens 8 --temperature 0'],
  ['run', () => 'run "Once upon a time" --max-tokens 8 --temperature 0 --local'],
  ['status', () => 'status'],
  ['devices', () => 'devices'],
  ['models', () => 'models'],
  ['models-load', () => 'models load dummy:llama-tiny --device gpu-0 --kv-bytes 8M'],
  ['models', () => 'models'],
  ['models-unload', () => 'models unload dummy:llama-tiny --device gpu-0'],
  ['kv', () => 'kv'],
  ['kv-evict', () => 'kv evict'],
  ['corpus', () => 'corpus create tales'],
  ['corpus-add', () => 'corpus add tales "$KVASIR_HOME/tales.jsonl"'],
  ['corpus-list', () => 'corpus list'],
  ['corpus-search', () => 'corpus search tales "the fox"'],
  ['run', () => 'run "Tell me of the fox" --max-tokens 4 --corpus tales --retrieve 1'],
  ['corpus-delete', () => 'corpus delete tales'],
  ['doctor', () => 'doctor'],
  ['driver', () => 'driver check -- node fpga-agent/dist/emulated-driver.js --threads 1'],
  ['calibrate', () => 'calibrate --records "$KVASIR_HOME/history.jsonl"'],
  ['explain', () => `explain ${requestId}`],
  ['trace', () => `trace ${requestId}`],
  ['study', () => 'study replay --rate 3 --requests 50'],
  ['down', () => 'down'],
]

const texts: string[] = []
for (const [name, command] of commands) {
  test(`kvasir ${command().trim()} --json`, { timeout: 60_000 }, async () => {
    const document = (await json(command())) as { requestId?: string | null; text?: string }
    expectShape(name, document)
    checked.add(name)
    if (name === 'run' && !command().includes('--corpus')) texts.push(document.text ?? '')
    if (name === 'run' && document.requestId) requestId = document.requestId
  })
}

test("the cluster's text and that of --local are the same", () => {
  expect(texts).toHaveLength(2)
  expect(texts[0]).toBe(texts[1])
})

test('every schema belongs to a command that was run; a bench runs too long for here', () => {
  const schemas = readdirSync(folder).map((file) => file.replace('.json', ''))
  expect(schemas.filter((name) => !checked.has(name))).toEqual(['bench'])
})
