/**
 * Drivers as processes of their own: what their agents load, how long they live, and that whatever goes wrong with
 * one costs its requests a fallback and nothing else.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { spawnChild } from '@kvasir/runtime/child'
import { isAlive } from '@kvasir/runtime/parent'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { fpga, gpu, projectRoot, TestCluster, until, untilIdle } from './support/cluster.js'
import { Workplace } from './support/commands.js'
import { streamCompletion } from './support/streams.js'

const emulated = `"${process.execPath}" "${join(projectRoot, 'fpga-agent/dist/emulated-driver.js')}" --threads 1`
const faulty = `"${process.execPath}" "${join(projectRoot, 'test/support/faulty-driver.mjs')}"`
const maxTokens = 200
/** Several processes start in each test. */
const timeout = 60_000
const folder = mkdtempSync(join(tmpdir(), 'kvasir-test-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const pidOf = (cluster: TestCluster, name: string) => cluster.processes.get(name)?.pid ?? 0

/** Children of a process, by /proc. */
function childrenOf(pid: number): number[] {
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
  return text
    .split(' ')
    .filter((word) => word.trim() !== '')
    .map(Number)
}

function residentBytes(pid: number): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1_024
}

describe('an agent with a driver in a process of its own', { timeout }, () => {
  let cluster: TestCluster
  beforeAll(async () => {
    cluster = await TestCluster.start({
      agents: [gpu('gpu-0', ['--threads', '1']), fpga('fpga-0', ['--driver', `exec:${emulated}`])],
    })
  })
  afterEach(() => untilIdle(cluster))
  afterAll(() => cluster?.stop())

  test('serves as one that computes itself, and loads neither ONNX Runtime nor the model', async () => {
    const result = await streamCompletion(cluster, { maxTokens: 40 })
    expect((await cluster.request(result.requestId)).placements.at(-1)?.decodeDevice).toBe('fpga-0')
    const agent = pidOf(cluster, 'fpga-0')
    const loaded = (pid: number) => readFileSync(`/proc/${pid}/maps`, 'utf8')
    const heavy = /onnxruntime|safetensors|models\/skald/
    expect(loaded(agent)).not.toMatch(heavy)
    const [driver = 0] = childrenOf(agent)
    // The other two show that looking finds it.
    expect(loaded(driver)).toMatch(heavy)
    expect(loaded(pidOf(cluster, 'gpu-0'))).toMatch(heavy)
    expect(residentBytes(agent)).toBeLessThan(residentBytes(pidOf(cluster, 'gpu-0')))
    expect(residentBytes(agent)).toBeLessThan(200e6)
  })

  test('takes its driver with it, kill -9 included', async () => {
    const [driver = 0] = childrenOf(pidOf(cluster, 'fpga-0'))
    expect(isAlive(driver)).toBe(true)
    await cluster.kill('fpga-0')
    await until('the driver has ended', () => !isAlive(driver))
    await cluster.startAgent('fpga-0')
    await cluster.untilDevicesReady(['fpga-0'])
  })
})

test('an agent that only connects waits for its driver, leaves it running, and ends with it', {
  timeout,
}, async () => {
  const socket = join(folder, 'd.sock')
  const flags = ['--driver', `unix:${socket}`]
  const starting = TestCluster.start({ agents: [gpu('gpu-0', ['--threads', '1']), fpga('fpga-0', flags)] })
  const driver = spawnChild('/bin/sh', ['-c', `exec ${emulated} --socket ${socket}`])
  const cluster = await starting
  try {
    await cluster.kill('fpga-0')
    // The next agent finds it free of what the first had loaded.
    await cluster.startAgent('fpga-0')
    await cluster.untilDevicesReady(['fpga-0'])
    expect(driver.running).toBe(true)
    const result = await streamCompletion(cluster, { maxTokens: 20 })
    expect((await cluster.request(result.requestId)).placements.at(-1)?.decodeDevice).toBe('fpga-0')
    const agent = cluster.processes.get('fpga-0')
    driver.kill('SIGKILL')
    const { code, reason } = (await agent?.exited) ?? { code: null, reason: '' }
    expect([code, reason]).toEqual([1, expect.stringMatching(/The driver of this device is lost: .*\.$/)])
  } finally {
    driver.kill('SIGKILL')
    await cluster.stop()
  }
})

describe('a driver that goes wrong', { timeout }, () => {
  let cluster: TestCluster
  let undisturbed: string
  const armed = join(folder, 'armed')

  beforeAll(async () => {
    const flags = ['--driver', `exec:${faulty} --armed "${armed}"`]
    cluster = await TestCluster.start({ agents: [gpu('gpu-0', ['--threads', '1']), fpga('fpga-0', flags)] })
    undisturbed = (await streamCompletion(cluster, { maxTokens })).text
  })
  afterEach(() => untilIdle(cluster))
  afterAll(() => cluster?.stop())

  async function comeBack() {
    await cluster.startAgent('fpga-0')
    await cluster.untilDevicesReady(['fpga-0'])
  }

  /** Streams while the fault strikes in mid-stream; the text is that of an undisturbed run. */
  async function disturbed(fault: string) {
    const result = await streamCompletion(cluster, {
      maxTokens,
      onChunk: (chunks) => {
        if (chunks === 30) writeFileSync(armed, fault)
      },
    })
    expect(existsSync(armed)).toBe(false)
    expect(result.text).toBe(undisturbed)
    expect(result.completionTokens).toBe(maxTokens)
    const { placements } = await cluster.request(result.requestId)
    expect(placements[0]?.decodeDevice).toBe('fpga-0')
    expect(placements.length).toBeGreaterThan(1)
  }

  test.each([
    ['kill', /SIGKILL/],
    ['exit', /exit code 3/],
    ['stop', /said nothing for 1.5 s/],
    ['silent', /said nothing for 1.5 s/],
    ['hang-step', /no progress with a step for 2.5 s/],
    ['half-frame', /exit code 3/],
    ['lengths', /A frame of/],
    ['undecodable', /no DriverReply/],
    ['wrong-size', /lacks 4/],
    ['unknown-id', /not asked/],
    ['duplicate', /answered already/],
  ])(
    '%s: requests go on elsewhere, the agent says why in one sentence, and comes back',
    async (fault, why) => {
      const agent = cluster.processes.get('fpga-0')
      await disturbed(fault)
      const { code, reason } = (await agent?.exited) ?? { code: null, reason: '' }
      expect([code, reason]).toEqual([1, expect.stringMatching(why)])
      expect(reason).toMatch(/The driver of this device is lost/)
      expect(cluster.log('fpga-0')).not.toMatch(/unhandled|uncaught/i)
      await comeBack()
    },
  )

  test.each(['nan', 'overloaded'])(
    '%s in one step: its requests go on elsewhere, and the device stays',
    async (fault) => {
      await disturbed(fault)
      expect(cluster.processes.get('fpga-0')?.running).toBe(true)
      const result = await streamCompletion(cluster, { maxTokens: 20 })
      expect(undisturbed.startsWith(result.text)).toBe(true)
    },
  )

  test.each([
    ['load-overloaded', /lacks 4 GB/],
    ['load-silent', /said nothing for 1.5 s/],
  ])('%s: the agent ends with one sentence, and the rest of the cluster serves', async (fault, why) => {
    await cluster.kill('fpga-0')
    writeFileSync(armed, fault)
    await expect(cluster.startAgent('fpga-0')).rejects.toThrow(why)
    expect((await streamCompletion(cluster, { maxTokens })).text).toBe(undisturbed)
    await comeBack()
  })
})

test('driver check names the case in which a driver went wrong, and goes on with it', {
  timeout,
}, async () => {
  const workplace = new Workplace()
  try {
    const armed = join(workplace.home, 'armed')
    writeFileSync(armed, 'wrong-size')
    const relay = `node test/support/faulty-driver.mjs --armed ${armed}`
    const { code, stdout } = await workplace.run(
      `node cli/bin/kvasir.mjs driver check --model dummy:llama-tiny -- ${relay}`,
    )
    expect(code).toBe(1)
    expect(stdout).toMatch(/✗ gives finite logits of the whole vocabulary: .*lacks 4/)
    expect(stdout).toMatch(/\n\d+ passed, 1 failed, 0 left out\n$/)
    const absent = await workplace.run('node cli/bin/kvasir.mjs driver check -- false')
    expect([absent.code, absent.stdout]).toEqual([1, ''])
    expect(absent.stderr).toMatch(/^kvasir: the driver of check ended with exit code 1\.\n$/)
  } finally {
    await workplace.close()
  }
})
