/**
 * A real cluster for a test: nats-server, coordinator and agents, each a process of its own,
 * on free ports, with a state folder that goes with it.
 *
 * Unlike the supervisor of `kvasir up` it restarts nothing: a test kills and starts what it means to.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { awaitReady, type Child, spawnChild } from '@kvasir/runtime/child'
import { startNatsServer, type TestNatsServer } from '@kvasir/runtime/testing/nats-server'

export const projectRoot = resolve(dirname(fileURLToPath(import.meta.url)), '../..')
export const skald = join(projectRoot, 'models/skald')

export interface AgentSpec {
  readonly name: string
  /** Script relative to the project's root. */
  readonly script: string
  readonly flags?: readonly string[]
  /** In place of the cluster's. */
  readonly model?: string
}

export const gpu = (name = 'gpu-0', flags: readonly string[] = []): AgentSpec => ({
  name,
  script: 'gpu-agent/dist/main.js',
  flags,
})
export const fpga = (name = 'fpga-0', flags: readonly string[] = []): AgentSpec => ({
  name,
  script: 'fpga-agent/dist/main.js',
  flags,
})
export const host = (name = 'host-0', flags: readonly string[] = []): AgentSpec => ({
  name,
  script: 'host-agent/dist/main.js',
  flags,
})

export interface ClusterOptions {
  readonly agents: readonly AgentSpec[]
  /** Agents that the test itself starts. */
  readonly spare?: readonly AgentSpec[]
  readonly model?: string
  /** What the coordinator is given; the agents' model by default, none where devices are to tell it. */
  readonly coordinatorModels?: readonly string[]
  readonly coordinatorFlags?: readonly string[]
  /** What the test's own requests are signed with, where the coordinator asks for a key. */
  readonly apiKey?: string
}

const readyDeadlineMs = 60_000

export class TestCluster {
  readonly home = mkdtempSync(join(tmpdir(), 'kvasir-test-'))
  readonly processes = new Map<string, Child>()
  readonly ready = new Map<string, Record<string, unknown>>()
  url = ''
  #nats: TestNatsServer | undefined
  readonly #options: ClusterOptions
  readonly #specs = new Map<string, AgentSpec>()

  private constructor(options: ClusterOptions) {
    this.#options = options
    for (const spec of [...options.agents, ...(options.spare ?? [])]) this.#specs.set(spec.name, spec)
  }

  static async start(options: ClusterOptions): Promise<TestCluster> {
    const cluster = new TestCluster(options)
    try {
      mkdirSync(join(cluster.home, 'log'), { recursive: true })
      cluster.#nats = await startNatsServer()
      await cluster.startCoordinator()
      await Promise.all(options.agents.map((spec) => cluster.startAgent(spec.name)))
      await cluster.untilDevicesReady(options.agents.map((spec) => spec.name))
      return cluster
    } catch (error) {
      await cluster.stop()
      throw error
    }
  }

  async killNats(): Promise<void> {
    await this.#nats?.kill()
  }

  /** Again on its port, with its store. */
  async startNats(): Promise<void> {
    await this.#nats?.start()
  }

  async startCoordinator(): Promise<void> {
    const facts = await this.#spawn('coordinator', 'coordinator/dist/main.js', [
      ...['--nats', this.#natsUrl(), '--port', '0'],
      ...(this.#options.coordinatorModels ?? [this.#model()]).flatMap((model) => ['--model', model]),
      ...(this.#options.coordinatorFlags ?? []),
    ])
    this.url = String(facts.url)
  }

  async startAgent(name: string): Promise<Record<string, unknown>> {
    const spec = this.#specs.get(name)
    if (!spec) throw new Error(`no agent ${name} in this test's cluster`)
    const model = spec.script.startsWith('host-agent') ? [] : ['--model', spec.model ?? this.#model()]
    return this.#spawn(name, spec.script, [
      ...['--nats', this.#natsUrl(), '--device-id', name, ...model],
      ...(spec.flags ?? []),
    ])
  }

  /** kill -9, and the end of the process awaited. */
  async kill(name: string): Promise<void> {
    const child = this.processes.get(name)
    child?.kill('SIGKILL')
    await child?.exited
    this.processes.delete(name)
  }

  /** Waits until the coordinator shows these devices as ready, and at their newest incarnation. */
  async untilDevicesReady(names: readonly string[]): Promise<void> {
    await until(`devices ${names.join(', ')} are ready`, async () => {
      const devices = (await this.cluster()).devices
      return names.every((name) => devices.some((d) => d.deviceId === name && d.state === 'ready'))
    })
  }

  async cluster(): Promise<ClusterBody> {
    return (await this.json('/v1/cluster')) as ClusterBody
  }

  async request(id: string): Promise<RequestBody> {
    return (await this.json(`/v1/requests/${id}`)) as RequestBody
  }

  /** Gets a document, or posts one and gets the answer. */
  async json(path: string, body?: object): Promise<unknown> {
    const { apiKey } = this.#options
    const response = await fetch(this.url + path, {
      signal: AbortSignal.timeout(10_000),
      headers: {
        ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
    })
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
    return response.json()
  }

  /** What a process logged, newest last; for the message of a failing test. */
  log(name: string): string {
    return readFileSync(this.#logFile(name), 'utf8')
  }

  async stop(): Promise<void> {
    await Promise.all([...this.processes.keys()].map((name) => this.kill(name)))
    await this.#nats?.close()
    rmSync(this.home, { recursive: true, force: true })
  }

  #natsUrl(): string {
    return this.#nats?.url ?? ''
  }

  #model(): string {
    return this.#options.model ?? skald
  }

  #logFile(name: string): string {
    return join(this.home, 'log', `${name}.jsonl`)
  }

  async #spawn(name: string, script: string, flags: readonly string[]): Promise<Record<string, unknown>> {
    const child = spawnChild(
      process.execPath,
      [join(projectRoot, script), ...flags, '--log-file', this.#logFile(name)],
      { name, env: { KVASIR_HOME: this.home } },
    )
    this.processes.set(name, child)
    const facts = await awaitReady(child, readyDeadlineMs)
    this.ready.set(name, facts)
    return facts
  }
}

export interface ClusterBody {
  readonly queuedRequests: number
  readonly activeRequests: number
  readonly devices: readonly {
    readonly deviceId: string
    readonly incarnation: string
    readonly kind: string
    readonly state: string
    readonly decodeSlotsUsed: number
    readonly leases: number
    readonly endpoints: { readonly control: string; readonly kv: string }
    readonly tiers: readonly { readonly name: string; readonly leasedBytes: number }[]
    readonly decodeSlots: number
    readonly modelled: boolean
    readonly pace: {
      readonly device: string
      readonly kvTokens: number
      readonly cataloguedKvTokens: number
      readonly steps: number
      readonly lateSteps: number
      readonly lateMs: number
      readonly busyMs: number
    } | null
  }[]
}

export interface RequestBody {
  readonly requestId: string
  readonly traceId: string
  readonly state: string
  readonly placements: readonly {
    readonly epoch: number
    readonly prefillDevice: string
    readonly decodeDevice: string
    readonly profile: string
    readonly numerics: string
    readonly reason: string
  }[]
  readonly completionTokens: number
  readonly numericsChanged: boolean
  readonly cachedTokens: number
  readonly kv: {
    readonly bytes: number
    readonly chunks: number
    readonly overlap: number | null
    readonly modelledBytes: number | null
  }
  readonly modelled: readonly { readonly deviceId: string; readonly device: string }[]
  readonly attention: {
    readonly place: string
    readonly attendDevice: string | null
    readonly pages: number
    readonly pagesRead: number
  } | null
  readonly stages: readonly {
    readonly pipeline: string
    readonly stage: string
    readonly devices: readonly string[]
    readonly predictedMs: number | null
    readonly measuredMs: number | null
  }[]
}

/** Polls a condition to a deadline; the only way a test here waits for something it gets no event of. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  deadlineMs = 15_000,
): Promise<void> {
  const end = Date.now() + deadlineMs
  for (;;) {
    if (await condition()) return
    if (Date.now() > end) throw new Error(`waited ${deadlineMs} ms in vain until ${what}`)
    await new Promise((done) => setTimeout(done, 20))
  }
}

/** Nothing is held anywhere: the state in which every test must leave a cluster. */
export async function untilIdle(cluster: TestCluster, deadlineMs = 5_000): Promise<void> {
  await until(
    'every tier is at its starting fill and no lease or slot is held',
    async () => {
      const body = await cluster.cluster()
      return (
        body.activeRequests === 0 &&
        body.queuedRequests === 0 &&
        body.devices.every(
          (d) => d.leases === 0 && d.decodeSlotsUsed === 0 && d.tiers.every((t) => t.leasedBytes === 0),
        )
      )
    },
    deadlineMs,
  )
}
