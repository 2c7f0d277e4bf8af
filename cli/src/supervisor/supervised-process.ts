/**
 * One process of the cluster: started, watched, started again, stopped.
 *
 * Invariants:
 * S1 At most one child is alive at a time.
 * S2 A death before the first `start` has resolved rejects it and is not mended; a later one
 *    is reported once, and mended unless `restart` is false.
 * S3 After `stop` was called nothing is started any more.
 */
import type { Child, ChildExit } from '@kvasir/runtime/lifecycle'
import { afterDeath, neverDied, type RestartState } from './restart-policy.js'

export interface Launch {
  readonly child: Child
  /** Resolves when the process serves; rejects with one sentence where it dies before or is too slow. */
  readonly ready: Promise<unknown>
}

export interface SupervisedOptions {
  readonly name: string
  readonly launch: (onExit: (exit: ChildExit) => void) => Launch
  /** Whether a process that dies after its start is started again. */
  readonly restart: boolean
  readonly onDeath: (exit: ChildExit, restartInMs: number | undefined) => void
  readonly onRestarted: () => void
  /** A restart failed; another follows. */
  readonly onRestartFailed: (error: Error, restartInMs: number) => void
}

type State =
  | { readonly at: 'new' }
  | { readonly at: 'starting'; readonly child: Child }
  | { readonly at: 'running'; readonly child: Child; readonly sinceMs: number }
  | { readonly at: 'pausing'; readonly timer: NodeJS.Timeout }
  | { readonly at: 'stopped'; readonly child: Child | undefined }

export class SupervisedProcess {
  private state: State = { at: 'new' }
  private restarts: RestartState = neverDied

  constructor(private readonly options: SupervisedOptions) {}

  get name(): string {
    return this.options.name
  }

  /** 0 while none runs. */
  get pid(): number {
    return this.state.at === 'running' || this.state.at === 'starting' ? this.state.child.pid : 0
  }

  /** Resolves when the process serves. */
  async start(): Promise<void> {
    if (this.state.at === 'stopped') throw new Error(`${this.name} was stopped and cannot start.`)
    const launch = this.options.launch((exit) => this.died(launch.child, exit))
    this.state = { at: 'starting', child: launch.child }
    try {
      await launch.ready
    } catch (error) {
      launch.child.kill('SIGKILL')
      await launch.child.exited
      throw error
    }
    // A stop in the meantime wins, and it stops this child.
    if (this.state.at === 'starting') {
      this.state = { at: 'running', child: launch.child, sinceMs: performance.now() }
    }
  }

  /** SIGTERM, then SIGKILL after the deadline; resolves when nothing runs. */
  async stop(deadlineMs: number): Promise<void> {
    if (this.state.at === 'pausing') clearTimeout(this.state.timer)
    const child = 'child' in this.state ? this.state.child : undefined
    this.state = { at: 'stopped', child }
    await child?.stop(deadlineMs)
  }

  private died(child: Child, exit: ChildExit): void {
    if (this.state.at !== 'running' || this.state.child !== child) return
    const livedMs = performance.now() - this.state.sinceMs
    const pauseMs = this.options.restart ? this.pause(livedMs) : undefined
    if (pauseMs === undefined) this.state = { at: 'stopped', child: undefined }
    this.options.onDeath(exit, pauseMs)
  }

  /** Plans the next start; returns the pause before it. */
  private pause(livedMs: number): number {
    const next = afterDeath(this.restarts, livedMs)
    this.restarts = next.state
    this.state = { at: 'pausing', timer: setTimeout(() => void this.startAgain(), next.pauseMs) }
    return next.pauseMs
  }

  private async startAgain(): Promise<void> {
    try {
      await this.start()
      if (this.state.at === 'running') this.options.onRestarted()
    } catch (error) {
      if (this.state.at === 'stopped') return
      const pauseMs = this.pause(0)
      this.options.onRestartFailed(error instanceof Error ? error : new Error(String(error)), pauseMs)
    }
  }
}
