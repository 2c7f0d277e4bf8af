/**
 * Runs a study and gives its results: the table on the terminal or the JSON document, results.json, report.html.
 *
 * Invariants: the folder is known to take files before anything is computed; a stop (Ctrl-C) leaves what is done in the
 * files and says how many points are missing; a study that found something wrong gives all its results and then says so;
 * no worker thread outlives the run.
 */
import { accessSync, constants, mkdirSync, statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { InvalidInputError, messageOf } from '@kvasir/runtime/errors'
import { PointPool } from '@kvasir/study/points/point-pool'
import { type StudyDocument, studyDocument } from '@kvasir/study/report/document'
import type { StudyContext, StudyResult } from '@kvasir/study/study'
import { writeAtomic } from '#setup/atomic-file'
import { interruptSignal } from '../commands/run-command.js'
import { environment } from '../environment.js'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { formatCount } from '../format.js'
import { printJson, say } from '../terminal.js'
import { showStudy } from './show-study.js'
import { studyProgress } from './study-progress.js'

export interface StudyRunOptions {
  readonly name: string
  /** The command line that makes the same results. */
  readonly commandLine: string
  /** Absolute. */
  readonly folder: string
  readonly json: boolean
  /** Whether report.html is written. */
  readonly report: boolean
  /** All cores without it. */
  readonly workers?: number
  readonly run: (context: StudyContext) => Promise<StudyResult>
}

export async function runStudy(options: StudyRunOptions): Promise<ExitCode> {
  makeFolder(options.folder)
  const interrupted = interruptSignal()
  let computed: Computed
  try {
    computed = await compute(options, interrupted)
  } catch (error) {
    if (!interrupted.aborted) throw error
    say('stopped before there was anything to keep: nothing was written')
    return EXIT.interrupted
  }
  const { document, failed } = computed
  const files = await writeResults(options, document)
  if (options.json) printJson(document)
  else showStudy(document, files)
  if (document.pointsSkipped > 0) {
    say(`stopped: ${formatCount(document.pointsSkipped, 'point')} left out of these results`)
  }
  if (failed !== undefined) say(failed)
  if (interrupted.aborted) return EXIT.interrupted
  return failed === undefined ? EXIT.ok : EXIT.failure
}

interface Computed {
  readonly document: StudyDocument
  /** What the study found to be wrong. */
  readonly failed: string | undefined
}

async function compute(options: StudyRunOptions, signal: AbortSignal): Promise<Computed> {
  const startedAt = new Date()
  const beganMs = performance.now()
  const workers = options.workers ?? availableParallelism()
  const progress = studyProgress()
  signal.addEventListener('abort', () => {
    progress.say('stopping: what is done is kept; Ctrl-C again ends at once')
  })
  const pool = new PointPool({
    workers,
    signal,
    onProgress: ({ share, what, done, total }) =>
      progress.show(share, what, total > 1 ? `${done} of ${total} points` : ''),
  })
  try {
    const result = await options.run({
      signal,
      say: (line) => progress.say(line),
      progress: (share, what) => progress.show(share, what),
      points: (module, inputs, what) => pool.points(module, inputs, what),
    })
    const tookS = Math.round(performance.now() - beganMs) / 1_000
    const provenance = {
      name: options.name,
      command: options.commandLine,
      environment: { ...environment(), workers, startedAt: startedAt.toISOString(), tookS },
    }
    return { document: studyDocument(result, provenance, pool.skipped), failed: result.failed }
  } finally {
    progress.close()
    await pool.close()
  }
}

function makeFolder(folder: string): void {
  try {
    makeFolders(folder)
    accessSync(folder, constants.W_OK)
  } catch (error) {
    throw new InvalidInputError(
      `The results cannot be written to ${folder} (${messageOf(error)}): name another folder with --out.`,
    )
  }
}

/** One by one: below /proc, Node's recursive way would try for ever. */
function makeFolders(folder: string): void {
  const there = statSync(folder, { throwIfNoEntry: false })
  if (there?.isDirectory()) return
  if (there) throw new Error('it is a file')
  makeFolders(dirname(folder))
  try {
    mkdirSync(folder)
  } catch (error) {
    // Another run made it meanwhile.
    if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) throw error
  }
}

async function writeResults(options: StudyRunOptions, document: StudyDocument): Promise<readonly string[]> {
  const results = join(options.folder, 'results.json')
  writeFile(results, `${JSON.stringify(document, null, 2)}\n`)
  if (!options.report) return [results]
  const report = join(options.folder, 'report.html')
  // What draws is large: loaded by whoever wants a report.
  const { reportHtml } = await import('@kvasir/study/report/report-html')
  writeFile(report, reportHtml(document))
  return [results, report]
}

function writeFile(file: string, text: string): void {
  try {
    writeAtomic(file, text)
  } catch (error) {
    throw new InvalidInputError(
      `${file} cannot be written (${messageOf(error)}): free disk space, or name another folder with --out.`,
    )
  }
}
