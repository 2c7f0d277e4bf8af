/** `kvasir corpus` as a user types it: bad files, odd texts, Ctrl-C, and a cluster that is stopped and started again. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { until } from './support/cluster.js'
import { type CommandResult, Workplace } from './support/commands.js'

const sizes = '--hbm-bytes 2M --ddr-bytes 4M --host-bytes 3M'
let workplace: Workplace
let url = ''

const kvasir = (command: string) => workplace.run(`node cli/bin/kvasir.mjs ${command}`)
const text = ({ code, stdout, stderr }: CommandResult) => `${code}: ${stdout}${stderr}`
const up = async () => {
  const { stdout } = await kvasir(`up --detach --port 0 ${sizes}`)
  url = stdout.trim()
  expect(url).toMatch(/^http/)
}

beforeAll(async () => {
  workplace = new Workplace()
  const lines = [
    '{"_id": "1", "title": "The Fox", "text": "A fox saw grapes."}',
    'no document',
    '{"_id": "1", "text": "again"}',
    String.raw`{"_id": "\u001b[31m🙂\u0000\ud800", "title": "\u202eעברית", "text": "e\u0301tude 東京 fox"}`,
    `{"_id": "long", "text": "${'x'.repeat(2 << 20)}"}`,
    '{"_id": "5", "text": "the last, without an end of line, of the fox"}',
  ]
  writeFileSync(join(workplace.home, 'tales.jsonl'), lines.join('\n'))
  await up()
}, 120_000)
afterAll(() => workplace?.close())

test('memories have the sizes that were asked for', { timeout: 30_000 }, async () => {
  const { stdout } = await kvasir('kv --json')
  const { devices } = JSON.parse(stdout) as {
    devices: { deviceId: string; tiers: { name: string; capacityBytes: number }[] }[]
  }
  const tiers = devices.flatMap(({ deviceId, tiers: all }) =>
    all.map(({ name, capacityBytes }) => [`${deviceId} ${name}`, Math.ceil(capacityBytes / 1e6)]),
  )
  expect(Object.fromEntries(tiers)).toMatchObject({ 'gpu-0 hbm': 2, 'fpga-0 ddr': 4, 'host-0 dram': 3 })
})

test('an empty corpus says how it is filled', { timeout: 30_000 }, async () => {
  expect(text(await kvasir('corpus create tales'))).toMatch(/^0: made the corpus tales/)
  expect(text(await kvasir('corpus search tales fox'))).toMatch(
    /^0: The corpus tales is empty: .* add tales FILE/,
  )
  expect(text(await kvasir('run fox --corpus tales'))).toMatch(/^1: .*is empty\. Add documents/)
})

test('bad lines are told by number, the others are kept and found, and printed without doing harm', {
  timeout: 30_000,
}, async () => {
  const added = await kvasir('corpus add tales "$KVASIR_HOME/tales.jsonl"')
  expect(text(added)).toMatch(/^1: added 3 documents to tales/)
  for (const line of [
    'line 2: The line is not JSON',
    'line 3: The id "1"',
    'line 5: The document is longer',
  ]) {
    expect(added.stderr).toContain(line)
  }
  for (const query of ['東京', 'étude', 'עברית']) {
    const found = await kvasir(`corpus search tales ${query}`)
    expect(text(found)).toMatch(/^0: .*1 document in/s)
    expect(found.stdout.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\u202e]/u)
  }
  expect((await kvasir('corpus search tales "the of" --k 1000')).stdout).toMatch(/2 documents in/)
  expect((await kvasir('corpus search tales "🙂 … !"')).stdout).toMatch(/No document has a word/)
})

test('Ctrl-C in the middle of an upload adds nothing, and says so', { timeout: 30_000 }, async () => {
  const line = '{"_id": "more", "text": "fox"}'
  // What is piped in does not end by itself.
  const upload = workplace.start(
    `(echo '${line}'; exec sleep 60) | node cli/bin/kvasir.mjs corpus add tales -`,
  )
  await until('the upload is under way', async () => {
    const metrics = await (await fetch(`${url}/metrics`)).text()
    return /^kvasir_requests_in_flight 1$/m.test(metrics)
  })
  const command = workplace.processes().find((one) => /^node \S+ corpus add/.test(one.command))
  process.kill(command?.pid ?? Number.NaN, 'SIGINT')
  await upload.untilPrints(/The upload was interrupted: nothing of it was added\./)
  process.kill(-(upload.child.pid ?? Number.NaN), 'SIGKILL')
  await upload.ended()
  expect((await kvasir('corpus search tales "fox" --json')).stdout).not.toContain('"more"')
})

test('corpora are there again after down and up', { timeout: 60_000 }, async () => {
  expect((await kvasir('down')).code).toBe(0)
  await up()
  expect((await kvasir('corpus search tales "grapes"')).stdout).toMatch(/1 +The Fox/)
  expect((await kvasir('corpus delete tales')).code).toBe(0)
  expect((await kvasir('corpus list')).stdout).toContain('There is no corpus here')
})
