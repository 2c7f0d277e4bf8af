/**
 * A whole cluster on this machine: nats-server, coordinator and agents, each a process.
 *
 * Invariants:
 * C1 `start` resolves when every process serves and the coordinator sees every device; where
 *    that fails, every process has ended before it rejects.
 * C2 A nats-server or an agent that dies later is started again; a coordinator that dies is
 *    not, since the clients' streams died with it: `lost` then resolves.
 * C3 `stop` drains in the order of use: coordinator, agents, nats-server.
 * C4 No process outlives this one (spawnChild).
 */
import { existsSync, renameSync } from 'node:fs'
import path from 'node:path'
import type { ClusterReport } from '@kvasir/coordinator/generation'
import { deferred, delay, withSignal } from '@kvasir/runtime/deferred'
import { DeadlineError, KvasirError, messageOf, UnavailableError } from '@kvasir/runtime/errors'
import { awaitReady, type ChildExit, type ReadyFacts, spawnChild } from '@kvasir/runtime/lifecycle'
import { logFolder, projectRoot } from '@kvasir/runtime/state-folder'
import { callJson } from '../client/api-client.js'
import { followLoad } from '../client/model-loading.js'
import { loadModel } from '../client/models.js'
import { formatDuration } from '../format.js'
import { type ClusterWish, type PlannedProcess, planCluster } from './cluster-plan.js'
import { launchNats } from './nats-process.js'
import { type ClusterClaim, natsFolder, type RecordedProcess } from './run-record.js'
import { type Launch, SupervisedProcess } from './supervised-process.js'

/** A large model is read and its graphs are built in this time on a slow disk. */
const processReadyMsMax = 180_000
const natsReadyMsMax = 15_000
const devicesSeenMsMax = 20_000
const drainMsMax = 13_500
const natsStopMsMax = 3_000
const pollMs = 50

/**
 * KV passes through buffers outside V8's small heap, and each few dozen MB of them would start a
 * full garbage collection on cores that compute; beginning with a larger heap limit, in MB, does not.
 */
export const nodeFlags = ['--initial-heap-size=256']
/**
 * Blocks from 16 MiB on are given back to the system when they are free; else the C library keeps two thirds of what
 * a model took after it was unloaded. Weights are mostly larger; what a step makes and frees again is mostly smaller,
 * and would cost a quarter of a prefill's time if it were taken from the system anew in every layer.
 */
const nodeEnvironment = { MALLOC_MMAP_THRESHOLD_: process.env.MALLOC_MMAP_THRESHOLD_ ?? String(16 << 20) }

export interface ClusterStart {
  readonly wish: ClusterWish
  /** A NATS to join; undefined starts one. */
  readonly natsUrl: string | undefined
  readonly claim: ClusterClaim
  /** Aborting ends a start. */
  readonly signal: AbortSignal
  /** Told of everything that a person at the terminal wants to know, a sentence each. */
  readonly say: (line: string) => void
}

export interface LocalCluster {
  readonly url: string
  readonly natsUrl: string
  /** Resolves with the reason when the cluster cannot go on. */
  readonly lost: Promise<string>
  processes(): readonly RecordedProcess[]
  stop(): Promise<void>
}

export async function startCluster(options: ClusterStart): Promise<LocalCluster> {
  const cluster = new Cluster(options)
  try {
    await withSignal(cluster.start(), options.signal)
    return cluster
  } catch (error) {
    await cluster.stop()
    throw KvasirError.from(error)
  }
}

class Cluster implements LocalCluster {
  url = ''
  natsUrl = ''
  private readonly startedAt = new Date()
  private readonly loss = deferred<string>()
  private nats: SupervisedProcess | undefined
  private coordinator: SupervisedProcess | undefined
  private agents: SupervisedProcess[] = []
  private stopping: Promise<void> | undefined
  /** By id, which is the name of their process too. */
  private runsModels: ReadonlySet<string> = new Set()

  constructor(private readonly options: ClusterStart) {}

  get lost(): Promise<string> {
    return this.loss.promise
  }

  async start(): Promise<void> {
    const { wish, say } = this.options
    const begin = performance.now()
    this.natsUrl = this.options.natsUrl ?? (await this.startNats())
    const plan = planCluster(wish, this.natsUrl)
    let facts: ReadyFacts | undefined
    this.coordinator = this.supervise(plan.coordinator, false, (ready) => {
      facts = ready
    })
    this.agents = plan.agents.map((agent) => this.supervise(agent, true))
    this.runsModels = new Set(plan.agents.filter(({ args }) => args.includes('--model')).map(deviceIdOf))
    const everyone = [this.coordinator, ...this.agents]
    await Promise.all(
      everyone.map(async (process) => {
        await process.start()
        say(`${process.name} is ready (${formatDuration(performance.now() - begin)})`)
      }),
    )
    this.url = String(facts?.url)
    if (typeof facts?.portNote === 'string' && facts.portNote !== '') say(facts.portNote)
    await this.waitForDevices(plan.agents.map((agent) => deviceIdOf(agent)))
    for (const model of wish.furtherModels ?? []) await this.loadModel(model)
    this.writeRecord()
  }

  processes(): RecordedProcess[] {
    const everyone = [this.nats, this.coordinator, ...this.agents].filter((process) => process !== undefined)
    return everyone.map((process) => ({
      name: process.name,
      pid: process.pid,
      logFile: logFileOf(process.name),
    }))
  }

  stop(): Promise<void> {
    this.stopping ??= this.stopAll()
    return this.stopping
  }

  private async stopAll(): Promise<void> {
    await this.coordinator?.stop(drainMsMax)
    await Promise.all(this.agents.map((agent) => agent.stop(drainMsMax)))
    await this.nats?.stop(natsStopMsMax)
  }

  private async startNats(): Promise<string> {
    let port: number | undefined
    const logFile = rotateLog('nats-server', 'log')
    this.nats = new SupervisedProcess({
      ...this.reports('nats-server', true),
      launch: (onExit) => {
        const launch = launchNats({
          folder: natsFolder(process.pid),
          logFile,
          port,
          deadlineMs: natsReadyMsMax,
          onExit,
        })
        const ready = launch.ready.then((answeringPort) => {
          port = answeringPort
        })
        return { child: launch.child, ready }
      },
    })
    await this.nats.start()
    return `nats://127.0.0.1:${port}`
  }

  private supervise(
    planned: PlannedProcess,
    restart: boolean,
    onReady: (facts: ReadyFacts) => void = () => {},
  ): SupervisedProcess {
    const logFile = rotateLog(planned.name, 'jsonl')
    const outputFile = rotateLog(planned.name, 'log')
    const script = path.join(projectRoot(), planned.script)
    return new SupervisedProcess({
      ...this.reports(planned.name, restart),
      launch: (onExit): Launch => {
        const child = spawnChild(
          process.execPath,
          [...nodeFlags, script, ...planned.args, '--log-file', logFile],
          {
            name: planned.name,
            env: nodeEnvironment,
            logFile: outputFile,
            onExit,
          },
        )
        return { child, ready: awaitReady(child, processReadyMsMax).then(onReady) }
      },
    })
  }

  private reports(name: string, restart: boolean) {
    const { say } = this.options
    return {
      name,
      restart,
      onDeath: (exit: ChildExit, restartInMs: number | undefined) => {
        // What a process that was killed said last has nothing to do with its end.
        const reason = exit.signal === null ? exit.reason : `${name} ended with signal ${exit.signal}.`
        if (restartInMs === undefined) {
          this.loss.resolve(`${reason} The cluster cannot go on without it.`)
          return
        }
        say(`${reason} Starting it again in ${formatDuration(restartInMs)}.`)
        this.updateRecord()
      },
      onRestarted: () => {
        say(`${name} is ready again`)
        this.updateRecord()
        void this.restoreModels(name)
      },
      onRestartFailed: (error: Error, restartInMs: number) => {
        say(`${error.message} Trying again in ${formatDuration(restartInMs)}.`)
      },
    }
  }

  private async waitForDevices(wanted: readonly string[]): Promise<void> {
    const end = performance.now() + devicesSeenMsMax
    let missing = wanted
    while (performance.now() < end && !this.options.signal.aborted) {
      const report = await callJson<ClusterReport>(this.url, '/v1/cluster')
      const ready = new Set(
        report.devices.filter((device) => device.state === 'ready').map((device) => device.deviceId),
      )
      missing = wanted.filter((id) => !ready.has(id))
      if (missing.length === 0 && (await this.isServing())) return
      await delay(pollMs, this.options.signal)
    }
    const what = missing.length === 0 ? 'it is ready to serve' : `it sees ${missing.join(', ')}`
    throw new DeadlineError(
      `The coordinator did not say in time that ${what}: read its log, ${logFileOf('coordinator')}.`,
    )
  }

  /** An agent that was started again has its first model alone. */
  private async restoreModels(name: string): Promise<void> {
    const { wish, say } = this.options
    if (!this.runsModels.has(name)) return
    try {
      await this.waitForDevices([name])
      for (const model of wish.furtherModels ?? []) await this.loadModel(model, [name])
    } catch (error) {
      if (this.stopping === undefined) say(`${name} has its first model alone: ${messageOf(error)}`)
    }
  }

  /** One that does not fit is said, and no reason to end a cluster that serves. */
  private async loadModel(spec: string, devices?: readonly string[]): Promise<void> {
    const { say, signal } = this.options
    const begun = await loadModel(this.url, { model: spec, devices }, signal)
    const outcomes = await followLoad(this.url, begun, signal)
    const loaded = outcomes.filter(({ state }) => state === 'loaded').map(({ deviceId }) => deviceId)
    if (loaded.length > 0) say(`${begun.model} is loaded on ${loaded.join(', ')}`)
    for (const { deviceId, error } of outcomes) {
      if (error !== null) say(`${deviceId} could not load ${begun.model}: ${error}`)
    }
  }

  private async isServing(): Promise<boolean> {
    try {
      await callJson(this.url, '/health/ready')
      return true
    } catch (error) {
      if (error instanceof UnavailableError) return false
      throw error
    }
  }

  /** After the start: a record that cannot be written is a pity, and no reason to end a cluster that serves. */
  private updateRecord(): void {
    try {
      this.writeRecord()
    } catch (error) {
      this.options.say(`the record for \`kvasir status\` cannot be written (${messageOf(error)})`)
    }
  }

  private writeRecord(): void {
    if (this.url === '' || this.stopping !== undefined) return
    this.options.claim.write({
      url: this.url,
      natsUrl: this.natsUrl,
      startedAt: this.startedAt.toISOString(),
      processes: this.processes(),
    })
  }
}

function deviceIdOf(agent: PlannedProcess): string {
  return agent.args[agent.args.indexOf('--device-id') + 1] ?? agent.name
}

function logFileOf(name: string, extension = name === 'nats-server' ? 'log' : 'jsonl'): string {
  return path.join(logFolder(), `${name}.${extension}`)
}

/** The log of this run; the one of the run before is kept beside it, older ones are not. */
function rotateLog(name: string, extension: 'jsonl' | 'log'): string {
  const file = logFileOf(name, extension)
  if (existsSync(file)) renameSync(file, `${file}.previous`)
  return file
}
