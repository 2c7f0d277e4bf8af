/** `kvasir models` and profiles as a user types them. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type CommandResult, Workplace } from './support/commands.js'

const slow = { timeout: 60_000 }
const tiny = 'dummy:llama-tiny'
interface Status {
  readonly supervisor: { readonly processes: readonly { readonly name: string; readonly pid: number }[] }
  readonly cluster: {
    readonly devices: readonly {
      readonly deviceId: string
      readonly incarnation: string
      readonly models: readonly { readonly name: string }[]
    }[]
  }
}

let workplace: Workplace

const kvasir = (command: string) => workplace.run(`node cli/bin/kvasir.mjs ${command}`)
const text = ({ code, stdout, stderr }: CommandResult) => `${code}: ${stdout}${stderr}`

beforeAll(async () => {
  workplace = new Workplace()
  const up = `up --detach --port 0 --fpgas 1 --profile paper --hbm-bytes 16M --model skald --model ${tiny}`
  const result = await kvasir(up)
  expect(text(result)).toMatch(/^0: http/)
  expect(result.stderr).toMatch(/llama-tiny is loaded on gpu-0, fpga-0|llama-tiny is loaded on fpga-0, gpu-0/)
}, 180_000)
afterAll(() => workplace?.close())

test('the models are listed with their devices, numerics and memory', slow, async () => {
  const { stdout } = await kvasir('models')
  const lines = stdout.split('\n').map((line) => line.split(/ {2,}/))
  expect(lines[0]).toEqual([
    ...['model', 'digest', 'context', 'profile', 'device', 'state', 'numerics', 'weights', 'KV'],
  ])
  expect(lines.find(([model]) => model === 'skald')?.[1]).toMatch(/^[0-9a-f]{12}$/)
  expect(stdout).toMatch(/paper +fpga-0 +loaded +w4a8\+kv8/)
  expect(text(await kvasir('status'))).toContain(`${tiny} (paper) on 2 devices`)
  expect(text(await kvasir('devices'))).toContain('skald (paper, w4a8+kv8)')
})

test('a prompt goes to the model and the numerics that are asked for', slow, async () => {
  const run = async (options: string) => {
    const { stdout } = await kvasir(`run "Once upon a time" --max-tokens 8 --json ${options}`)
    return JSON.parse(stdout) as { profile: string; numericsChanged: boolean; tokens: number[] }
  }
  const merged = await run('--model skald --merge-layers 4 --no-cache')
  expect(merged).toMatchObject({ profile: 'paper', numericsChanged: false })
  expect((await run('--model skald --no-cache')).tokens).toEqual(merged.tokens)
  expect((await run(`--model ${tiny}`)).tokens).toHaveLength(8)
  expect(text(await kvasir('run Once --model skald --profile exact'))).toMatch(
    /^1: .*loaded in profile paper alone/,
  )
  expect(text(await kvasir('run Once --profile fast'))).toMatch(/^2: .*Allowed choices are exact, paper/)
})

test('exact numerics are loaded beside, and unloaded', slow, async () => {
  const loaded = await kvasir('models load skald --profile exact --kv-bytes 16M')
  expect(text(loaded)).toMatch(/^0: /)
  expect(loaded.stdout).toMatch(/gpu-0 +loaded/)
  expect(loaded.stderr).toMatch(/skald on gpu-0: loaded/)
  const [ours, alone] = await Promise.all(
    ['--profile exact', '--local'].map((how) => kvasir(`run "Once upon a time" --max-tokens 16 ${how}`)),
  )
  expect(ours?.stdout).toBe(alone?.stdout)
  expect(text(await kvasir('models unload skald --profile exact'))).toMatch(/^0: .*exact +unloads it/)
  expect(text(await kvasir('models unload skald --device npu-7'))).toMatch(/^1: .*no device "npu-7"/)
  expect(text(await kvasir('models load no-such-model'))).toMatch(/^1: .*no-such-model/)
})

test('an agent that was killed gets back every model that the start named', slow, async () => {
  const status = async () => JSON.parse((await kvasir('status --json')).stdout) as Status
  const { supervisor } = await status()
  const pid = supervisor.processes.find(({ name }) => name === 'fpga-0')?.pid
  if (pid === undefined) throw new Error('status tells of no fpga-0')
  const lives = async () => {
    const device = (await status()).cluster.devices.find(({ deviceId }) => deviceId === 'fpga-0')
    return { life: device?.incarnation, models: (device?.models ?? []).map(({ name }) => name).sort() }
  }
  const { life, models } = await lives()
  expect(models).toEqual([tiny, 'skald'])
  process.kill(pid, 'SIGKILL')
  const again = async () => {
    const now = await lives()
    return now.life === life ? undefined : now.models
  }
  await expect.poll(again, { timeout: 50_000 }).toEqual(models)
})

test('Ctrl-C leaves the load going, and says so', slow, async () => {
  const kvasirCard = {
    ...{ digest: null, context_tokens_max: null, chat: null, ready: false, profiles: [] },
    devices: [
      { device_id: 'gpu-0', profile: 'exact', state: 'fetching', bytes: 34, bytes_total: 100, error: null },
    ].map((device) => ({ ...device, source_device_id: 'fpga-0' })),
  }
  const begun = { model: 'tale', profile: 'exact', devices: [{ device_id: 'gpu-0', error: null }] }
  const server = createServer((request, response) => {
    const list = { data: [{ id: 'tale', kvasir: kvasirCard }] }
    response.end(JSON.stringify(request.method === 'POST' ? begun : list))
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const { port } = server.address() as AddressInfo
  const command = workplace.start('exec node cli/bin/kvasir.mjs models load tale', {
    KVASIR_URL: `http://127.0.0.1:${port}`,
  })
  await command.untilPrints(/tale on gpu-0: fetching 34 % of 100 B from fpga-0/)
  command.child.kill('SIGINT')
  const ended = await command.ended()
  expect(text(ended)).toMatch(/^130: .*The devices go on loading tale/s)
  server.close()
})
