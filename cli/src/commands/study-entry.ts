/** A study as a command: its own options, those that every study takes, and the command line that would make it again. */

import { join, resolve } from 'node:path'
import { stateFolder } from '@kvasir/runtime/state-folder'
import type { StudyOptions, StudyRun } from '@kvasir/study/study'
import type { Command } from 'commander'
import { runStudy } from '../study/run-study.js'
import { listOption, positiveOption, seedOption } from './option-values.js'
import type { Run } from './run-command.js'

const workersMax = 1_024

/** What `addStudy` adds to a command. */
export interface StudyEntry<Options> {
  readonly name: string
  readonly description: string
  readonly options: (command: Command) => Command
  /** Loaded when asked for, so that no other command pays for it. */
  readonly run: StudyRun<Options & StudyOptions>
}

interface CommonOptions {
  readonly seed: number
  readonly catalogue?: readonly string[]
  readonly out?: string
  readonly workers?: number
  readonly json?: boolean
  readonly report: boolean
}

/** Options that change where and how a study runs and not what comes out. */
const aside = new Set(['--seed', '--out', '--workers', '--json', '--no-report'])

export function addStudy<Options>(parent: Command, run: Run, entry: StudyEntry<Options>): void {
  const command = parent
    .command(entry.name)
    .description(entry.description)
    // What the parent lets pass, so that it can name a study that there is not, is a mistake here.
    .allowExcessArguments(false)
  const given: string[] = []
  entry
    .options(command)
    .option('--seed <number>', 'what everything random is drawn from', seedOption, 1)
    .option('--out <folder>', `folder of the results (${join('<state folder>', 'studies', entry.name)})`)
    .option('--catalogue <file>', 'YAML with devices, links and models of yours; repeatable', listOption)
    .option('--workers <count>', 'points computed at once (one a core)', positiveOption(workersMax))
    .option('--no-report', 'write no report.html')
    .option('--json', 'print one JSON document')
    .action((options: Options & CommonOptions) =>
      run(() => {
        const { seed, catalogue = [], out, workers, json = false, report } = options
        const folder = resolve(out ?? join(stateFolder(), 'studies', entry.name))
        return runStudy({
          name: entry.name,
          commandLine: [...pathOf(command), ...given, '--seed', String(seed)].map(quote).join(' '),
          folder,
          json,
          report,
          ...(workers === undefined ? {} : { workers }),
          run: (context) => entry.run({ ...options, seed, catalogue, out: folder }, context),
        })
      }),
    )
  for (const { long, name } of command.options.map((option) => ({
    long: option.long,
    name: option.name(),
  }))) {
    if (long === undefined || long === null || aside.has(long)) continue
    // As it was typed: what a parser made of it could not be typed again.
    command.on(`option:${name}`, (value: string | null) => {
      given.push(long, ...(value === null || value === undefined ? [] : [value]))
    })
  }
}

/** `kvasir`, `study` and the study's name. */
function pathOf(command: Command): readonly string[] {
  return command.parent === null ? [command.name()] : [...pathOf(command.parent), command.name()]
}

/** As a POSIX shell reads it. */
function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`
}
