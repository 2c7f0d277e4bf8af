/**
 * Computes the points of a study in worker threads.
 *
 * Invariants: at most `workers` threads live at once, whatever is asked for; results are in the order of the inputs; once
 * stopped no further point begins, those that run have `graceMs` to end, and what was done is kept; after `close` no
 * thread is left. One point alone has a thread too, so that the asking thread stays free for progress and Ctrl-C.
 */
import { Worker } from 'node:worker_threads'
import { availableMemoryBytes } from '@kvasir/runtime/available-memory'
import { InternalError, OverloadedError } from '@kvasir/runtime/errors'
import { mean } from '../statistics.js'
import { builtFile } from './built-file.js'
import { fromSent, type PointReport, type PointTask } from './point-messages.js'

/** Time for running points to end once the study is stopped. */
const graceDefaultMs = 1_500
/** Of what is free, all threads' heaps together; the rest is the asking thread's and the system's. */
const heapShare = 0.75
const heapMinMb = 512
/** What waits in virtual time outlives a small young generation, which would copy it again and again: a sixth of the time. */
const youngHeapMb = 192

export interface PointPoolOptions {
  /** Threads at most, at least 1. */
  readonly workers: number
  readonly signal: AbortSignal
  /** `done` of `total` points of one call; `share` counts the running ones by what they tell. */
  readonly onProgress?: (progress: PointProgress) => void
  readonly graceMs?: number
}

export interface PointProgress {
  readonly what: string
  readonly share: number
  readonly done: number
  readonly total: number
}

/** The points of one call. */
interface Batch {
  readonly what: string
  readonly module: string
  readonly results: unknown[]
  readonly shares: number[]
  done: number
  left: number
  settled: boolean
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

interface Job {
  readonly batch: Batch
  readonly index: number
  readonly input: unknown
}

interface Thread {
  readonly worker: Worker
  job: Job | undefined
}

export class PointPool {
  readonly #options: PointPoolOptions
  readonly #threads = new Set<Thread>()
  /** Bounded by the inputs that callers hold anyway. */
  readonly #waiting: Job[] = []
  readonly #endings = new Set<Promise<unknown>>()
  #skipped = 0
  #isClosed = false
  #graceTimer: NodeJS.Timeout | undefined

  constructor(options: PointPoolOptions) {
    this.#options = options
    if (options.signal.aborted) this.#stop()
    else options.signal.addEventListener('abort', this.#stop, { once: true })
  }

  /** Points left out because of a stop, of all calls so far. */
  get skipped(): number {
    return this.#skipped
  }

  /** As StudyContext.points. */
  async points<Input, Result>(
    module: URL,
    inputs: readonly Input[],
    what: string,
  ): Promise<readonly (Result | undefined)[]> {
    const results: (Result | undefined)[] = inputs.map(() => undefined)
    if (inputs.length === 0) return results
    await new Promise<void>((resolve, reject) => {
      const batch: Batch = {
        what,
        module: builtFile(module).href,
        results,
        shares: inputs.map(() => 0),
        done: 0,
        left: inputs.length,
        settled: false,
        resolve,
        reject,
      }
      for (const [index, input] of inputs.entries()) this.#waiting.push({ batch, index, input })
      this.#tell(batch)
      if (this.#options.signal.aborted || this.#isClosed) this.#dropWaiting()
      this.#assign()
    })
    return results
  }

  /** Ends every thread; points that still run are left out. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#options.signal.removeEventListener('abort', this.#stop)
    clearTimeout(this.#graceTimer)
    this.#dropWaiting()
    for (const thread of this.#threads) this.#end(thread)
    await Promise.all(this.#endings)
  }

  readonly #stop = (): void => {
    this.#dropWaiting()
    this.#graceTimer = setTimeout(() => {
      for (const thread of this.#threads) if (thread.job !== undefined) this.#end(thread)
    }, this.#options.graceMs ?? graceDefaultMs)
  }

  #dropWaiting(): void {
    for (const { batch } of this.#waiting.splice(0)) this.#leaveOut(batch)
  }

  #leaveOut(batch: Batch): void {
    if (!batch.settled) this.#skipped += 1
    this.#settleOne(batch)
  }

  #assign(): void {
    while (this.#waiting.length > 0) {
      const thread = this.#idleThread()
      const job = thread && this.#waiting.shift()
      if (thread === undefined || job === undefined) return
      thread.job = job
      const task: PointTask = { module: job.batch.module, input: job.input }
      try {
        thread.worker.postMessage(task)
      } catch (error) {
        // An input that cannot be cloned: the study's mistake.
        thread.job = undefined
        this.#fail(job.batch, error)
      }
    }
  }

  #idleThread(): Thread | undefined {
    for (const thread of this.#threads) if (thread.job === undefined) return thread
    const alive = this.#threads.size + this.#endings.size
    return alive < this.#options.workers ? this.#begin() : undefined
  }

  #begin(): Thread {
    const heapMb = (availableMemoryBytes() * heapShare) / this.#options.workers / 2 ** 20
    const worker = new Worker(builtFile(new URL('./point-worker.js', import.meta.url)), {
      execArgv: [],
      // What a thread prints belongs to nobody's results.
      stdout: true,
      resourceLimits: {
        maxYoungGenerationSizeMb: youngHeapMb,
        maxOldGenerationSizeMb: Math.max(heapMinMb, Math.floor(heapMb)),
      },
    })
    worker.stdout.pipe(process.stderr, { end: false })
    const thread: Thread = { worker, job: undefined }
    this.#threads.add(thread)
    worker.on('message', (report: PointReport) => this.#onReport(thread, report))
    worker.on('error', (error: Error) => this.#onLost(thread, lossOf(error)))
    worker.on('exit', () => this.#onLost(thread, new InternalError('A worker thread ended unexpectedly.')))
    return thread
  }

  #onReport(thread: Thread, report: PointReport): void {
    const { job } = thread
    if (job === undefined) return
    const { batch, index } = job
    if (report.kind === 'share') {
      batch.shares[index] = Math.min(1, Math.max(0, report.share))
      this.#tell(batch)
      return
    }
    thread.job = undefined
    if (report.kind === 'failed') this.#fail(batch, fromSent(report.error))
    else {
      batch.results[index] = report.result
      batch.shares[index] = 1
      batch.done += 1
      this.#tell(batch)
      this.#settleOne(batch)
    }
    this.#assign()
  }

  #onLost(thread: Thread, error: Error): void {
    this.#threads.delete(thread)
    const { job } = thread
    thread.job = undefined
    if (job !== undefined) this.#fail(job.batch, error)
    if (!this.#isClosed) this.#assign()
  }

  #end(thread: Thread): void {
    this.#threads.delete(thread)
    const { job } = thread
    thread.job = undefined
    thread.worker.removeAllListeners()
    if (job !== undefined) this.#leaveOut(job.batch)
    const ending = thread.worker.terminate().finally(() => {
      this.#endings.delete(ending)
      this.#assign()
    })
    this.#endings.add(ending)
  }

  /** The others of its batch are of no use then, be they waiting or running. */
  #fail(batch: Batch, error: unknown): void {
    if (batch.settled) return
    batch.settled = true
    const kept = this.#waiting.filter((job) => job.batch !== batch)
    this.#waiting.splice(0, this.#waiting.length, ...kept)
    for (const thread of this.#threads) if (thread.job?.batch === batch) this.#end(thread)
    batch.reject(error)
  }

  #settleOne(batch: Batch): void {
    batch.left -= 1
    if (batch.left > 0 || batch.settled) return
    batch.settled = true
    batch.resolve()
  }

  #tell({ what, shares, done, settled }: Batch): void {
    if (settled) return
    const share = mean(shares)
    this.#options.onProgress?.({ what, share, done, total: shares.length })
  }
}

function lossOf(error: Error): Error {
  if (!('code' in error) || error.code !== 'ERR_WORKER_OUT_OF_MEMORY') return error
  return new OverloadedError(
    'A point needs more memory than its share: run again with fewer --workers, or make the points smaller.',
    { cause: error },
  )
}
