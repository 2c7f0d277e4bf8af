/** The local cluster as a user starts and ends it, and as an accident ends it: no orphan process, ever. */
import { copyFileSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { skald, until } from './support/cluster.js'
import { Workplace } from './support/commands.js'

const kvasir = 'node cli/bin/kvasir.mjs'
const limit = { timeout: 120_000 }
let workplace: Workplace

beforeEach(() => {
  workplace = new Workplace()
})
afterEach(() => workplace.close())

interface RunRecord {
  readonly pid: number
  readonly url: string
  readonly processes: readonly { readonly name: string; readonly pid: number }[]
}

function record(): RunRecord {
  return JSON.parse(readFileSync(join(workplace.home, 'run/cluster.json'), 'utf8')) as RunRecord
}

async function busyPort(): Promise<{ port: number; server: Server }> {
  const server = createServer()
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const address = server.address()
  return { port: typeof address === 'object' && address ? address.port : 0, server }
}

test('npm start -- --once runs one request and exits 0', limit, async () => {
  const result = await workplace.run('npm start -- --once')
  expect(result.stderr + result.stdout).toMatch(/fpga-\d/)
  expect(result.code).toBe(0)
  await workplace.untilNoProcess()
})

test(
  'kill -9 of a detached supervisor ends every process; status says so; up works again',
  limit,
  async () => {
    expect((await workplace.run(`${kvasir} up --detach --port 0`)).code).toBe(0)
    const names = record().processes.map((process) => process.name)
    expect(names).toEqual(
      expect.arrayContaining(['nats-server', 'coordinator', 'host-0', 'gpu-0', 'fpga-0', 'fpga-1']),
    )
    const twice = await workplace.run(`${kvasir} up --detach --port 0`)
    expect(twice.code).not.toBe(0)
    expect(twice.stderr).toContain(record().url)
    process.kill(record().pid, 'SIGKILL')
    await workplace.untilNoProcess()
    expect((await workplace.run(`${kvasir} status`)).code).not.toBe(0)
    expect((await workplace.run(`${kvasir} up --detach --port 0`)).code).toBe(0)
    expect((await workplace.run(`${kvasir} down`)).code).toBe(0)
    await workplace.untilNoProcess()
  },
)

test('kill -9 of npm ends every process', limit, async () => {
  const start = workplace.start('exec npm start')
  await start.untilPrints(/Ctrl-C/)
  process.kill(start.child.pid ?? 0, 'SIGKILL')
  await workplace.untilNoProcess()
})

test('an agent that dies is started again, as a new incarnation', limit, async () => {
  expect((await workplace.run(`${kvasir} up --detach --port 0`)).code).toBe(0)
  const incarnations = async () => {
    const response = await fetch(`${record().url}/v1/cluster`)
    const body = (await response.json()) as {
      devices: { deviceId: string; incarnation: string; state: string }[]
    }
    return body.devices
      .filter((d) => d.deviceId === 'fpga-0' && d.state === 'ready')
      .map((d) => d.incarnation)
  }
  const before = await incarnations()
  process.kill(record().processes.find((process) => process.name === 'fpga-0')?.pid ?? 0, 'SIGKILL')
  await until(
    'fpga-0 is back with another incarnation',
    async () => {
      const now = await incarnations()
      return now.length === 1 && now[0] !== before[0]
    },
    30_000,
  )
})

test('two clusters run beside each other', limit, async () => {
  const other = new Workplace()
  try {
    const [first, second] = await Promise.all([
      workplace.run(`${kvasir} up --detach`),
      other.run(`${kvasir} up --detach`),
    ])
    expect([first.code, second.code]).toEqual([0, 0])
    const run = await workplace.run(`${kvasir} run "Once upon a time" --max-tokens 4 --json`)
    expect(JSON.parse(run.stdout).tokens).toHaveLength(4)
  } finally {
    await other.close()
  }
})

test('a port that was asked for and is taken: one sentence, exit code not 0', limit, async () => {
  const { port, server } = await busyPort()
  const result = await workplace.run(`${kvasir} up --port ${port}`)
  server.close()
  expect(result.code).not.toBe(0)
  expect(result.stderr).toContain(String(port))
  expect(result.stderr).not.toMatch(/\n\s+at /)
  await workplace.untilNoProcess()
})

test('a missing, a truncated and an unsupported model: one sentence, exit code not 0', limit, async () => {
  const broken = (name: string): string => {
    const folder = join(workplace.home, name)
    mkdirSync(folder, { recursive: true })
    for (const file of ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors']) {
      copyFileSync(join(skald, file), join(folder, file))
    }
    return folder
  }
  const truncated = broken('truncated')
  truncateSync(join(truncated, 'model.safetensors'), 1_000_000)
  const unsupported = broken('unsupported')
  const config = JSON.parse(readFileSync(join(unsupported, 'config.json'), 'utf8'))
  writeFileSync(
    join(unsupported, 'config.json'),
    JSON.stringify({ ...config, architectures: ['GPT2LMHeadModel'], model_type: 'gpt2' }),
  )
  const expected: [string, RegExp][] = [
    [join(workplace.home, 'nowhere'), /nowhere/],
    [truncated, /truncated|too short|ends|safetensors/i],
    [unsupported, /GPT2LMHeadModel|gpt2/],
  ]
  for (const [model, message] of expected) {
    const result = await workplace.run(`${kvasir} up --port 0 --model ${model}`)
    expect(result.code).not.toBe(0)
    expect(result.stderr).toMatch(message)
    expect(result.stderr).not.toMatch(/\n\s+at /)
    await workplace.untilNoProcess()
  }
})
