/** `kvasir study NAME`: what a cluster would do, in virtual time, as tables, figures and a report with plots. */

import { didYouMean } from '@kvasir/runtime/did-you-mean'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { FaultsOptions } from '@kvasir/study/studies/faults'
import type { GlitchesOptions } from '@kvasir/study/studies/glitches'
import type { ReplayOptions } from '@kvasir/study/studies/replay'
import type { ScaleOptions } from '@kvasir/study/studies/scale'
import type { StudyOptions } from '@kvasir/study/study'
import type { Command } from 'commander'
import { EXIT, type ExitCode } from '../exit-codes.js'
import type { ValidateOptions } from '../study-validate/study-validate.js'
import { color, print, renderTable } from '../terminal.js'
import { numberOption, positiveOption, seedOption } from './option-values.js'
import { replayOptions } from './replay-options.js'
import type { Run } from './run-command.js'
import { addStudy } from './study-entry.js'

export function studyCommand(program: Command, run: Run): void {
  const study = program
    .command('study')
    .description('study what a cluster would do, in virtual time; without a name, list the studies')
    .argument('[name]', 'one of the commands below')
    .usage('[name] [options]')
    // What follows an unknown name is not judged: the name is the mistake.
    .allowUnknownOption()
    .allowExcessArguments()
    .action((_name: string | undefined, _options: object, self: Command) =>
      run(() => Promise.resolve(listStudies(self))),
    )
  addStudies(study, run)
}

/** In the order in which `kvasir study` lists them. The code of a study is loaded when it runs. */
function addStudies(study: Command, run: Run): void {
  addStudy(study, run, {
    name: 'glitches',
    description: '1 GPU and 7 FPGAs against 8 of a kind, as in the paper GLITCHES (HPEC 2024)',
    options: (command) =>
      command
        .option('--requests <number>', 'requests of each workload', positiveOption(100_000), 240)
        .option('--corners', 'only the shortest and longest prompts and outputs'),
    run: async (options: GlitchesOptions & StudyOptions, context) =>
      (await import('@kvasir/study/studies/glitches')).studyGlitches(options, context),
  })
  addStudy(study, run, {
    name: 'faults',
    description: 'random faults in small clusters, the invariants checked after every event',
    options: (command) =>
      command
        .option('--seeds <number>', 'cases to play, from --seed on', positiveOption(10_000_000), 200)
        .option('--replay <seed>', 'play one case and tell what happened in it', seedOption)
        .option('--plant <mistake>', 'with --replay: one of the mistakes that the study plants'),
    run: async (options: FaultsOptions & StudyOptions, context) =>
      (await import('@kvasir/study/studies/faults')).studyFaults(options, context),
  })
  addStudy(study, run, {
    name: 'replay',
    description: 'a trace on a cluster: SLO, latencies, reuse, cost; policies compared; the smallest cluster',
    options: replayOptions,
    run: async (options: ReplayOptions & StudyOptions, context) =>
      (await import('@kvasir/study/studies/replay')).studyReplay(options, context),
  })
  addStudy(study, run, {
    name: 'scale',
    description:
      'decisions from 10 to 1,000 devices, against every way to place, and over a million requests',
    options: (command) =>
      command.option(
        '--requests <number>',
        'requests of the large run, and at most of the others',
        positiveOption(100_000_000),
        1_000_000,
      ),
    run: async (options: ScaleOptions & StudyOptions, context) =>
      (await import('@kvasir/study/studies/scale')).studyScale(options, context),
  })
  addStudy(study, run, {
    name: 'validate',
    description: 'one workload on a live cluster of paced agents and in virtual time: how far they lie apart',
    options: (command) =>
      command
        .option('--requests <number>', 'requests', positiveOption(10_000), 200)
        .option('--load <share>', 'of the rate that the cluster sustains', numberOption(0.05, 1.5), 0.8),
    run: async (options: ValidateOptions & StudyOptions, context) =>
      (await import('../study-validate/study-validate.js')).studyValidate(options, context),
  })
}

function listStudies(study: Command): ExitCode {
  const [word] = study.args
  if (word !== undefined) throw unknown(word, study)
  const rows = study.commands.map((command) => [command.name(), command.description()])
  print(renderTable(rows))
  print(color.dim('\nkvasir study NAME --help lists the options of one.'))
  return EXIT.ok
}

function unknown(word: string, study: Command): InvalidInputError {
  if (word.startsWith('-'))
    return new InvalidInputError(`kvasir study knows no option ${word}: name a study first.`)
  const names = study.commands.map((command) => command.name())
  return new InvalidInputError(
    `There is no study ${JSON.stringify(word)}${didYouMean(word, names)}. The studies are ${names.join(', ')}.`,
  )
}
