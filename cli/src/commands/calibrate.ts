/**
 * `kvasir calibrate`: fits the cost model to what finished requests took, says how far its predictions of other requests
 * were before and after, and writes what it found for the catalogue.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import type { CompletionHistory } from '@kvasir/coordinator/core/completion-record'
import { InvalidInputError, messageOf } from '@kvasir/runtime/errors'
import { stateFolder } from '@kvasir/runtime/state-folder'
import type { Calibration, StageErrors } from '@kvasir/study/calibrate/calibrate'
import type { PredictionError } from '@kvasir/study/calibrate/prediction-error'
import type { Command } from 'commander'
import { callJson } from '../client/api-client.js'
import { locateCluster } from '../client/locate-cluster.js'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { formatCount, formatRate } from '../format.js'
import { color, print, printJson, renderTable } from '../terminal.js'
import { listOption, numberOption, seedOption } from './option-values.js'
import type { Run } from './run-command.js'

interface CalibrateOptions {
  readonly records?: readonly string[]
  readonly save?: string
  readonly out?: string
  readonly holdOut: number
  readonly seed: number
  readonly json?: boolean
}

const STAGE_NAMES: Readonly<Record<StageErrors['stage'], string>> = {
  prefill: 'prefill',
  'reused-prefill': 'prefill, mostly reused',
  step: 'decode step (TPOT)',
  transfer: 'KV transfer',
}

export function calibrateCommand(program: Command, run: Run): void {
  program
    .command('calibrate')
    .description('fit the cost model to finished requests, and say how far it predicts others')
    .option(
      '--records <file>',
      'requests saved before, instead of those of the cluster; repeatable',
      listOption,
    )
    .option('--save <file>', 'keep the requests in this file')
    .option('--out <file>', `catalogue file to write (${join('<state folder>', 'calibrated.yaml')})`)
    .option('--hold-out <share>', 'share of the requests to judge by', numberOption(0.05, 0.95), 0.3)
    .option('--seed <number>', 'which requests those are', seedOption, 1)
    .option('--json', 'print one JSON document')
    .action((options: CalibrateOptions) => run(() => calibrateCluster(options)))
}

async function calibrateCluster(options: CalibrateOptions): Promise<ExitCode> {
  const { calibrate } = await import('@kvasir/study/calibrate/calibrate')
  const { catalogueYaml } = await import('@kvasir/study/calibrate/catalogue-yaml')
  const { historyLines, joinedHistories, readHistory } = await import('@kvasir/study/calibrate/history-lines')
  const { records = [], holdOut, seed } = options
  const history =
    records.length > 0
      ? joinedHistories(records.map((file) => readHistory(textOf(file), file)))
      : await callJson<CompletionHistory>(locateCluster(), '/v1/completions/history')
  if (options.save !== undefined) writeText(resolve(options.save), historyLines(history))
  const calibration = calibrate(history, { seed, holdOut })
  const yaml = catalogueYaml(history, calibration)
  const file = resolve(options.out ?? join(stateFolder(), 'calibrated.yaml'))
  if (yaml !== null) writeText(file, yaml)

  if (options.json) printJson({ ...calibration, catalogueFile: yaml === null ? null : file })
  else print(textOfCalibration(calibration, yaml === null ? undefined : file))
  return EXIT.ok
}

function textOfCalibration(calibration: Calibration, file: string | undefined): string {
  const { requests, fit, errors, total, served, modelled } = calibration
  const parts = [
    `Fitted to ${formatCount(requests.fitted, 'request')}, judged by ${requests.heldOut} others.`,
    renderTable(
      fit.efficiencies.map((one) => [
        one.deviceId,
        one.profile,
        one.role,
        one.efficiency.toFixed(3),
        String(one.records),
      ]),
      ['device', 'profile', 'role', 'efficiency', 'records'],
    ),
  ]
  if (fit.rates.length > 0) {
    const rows = fit.rates.map(({ fromDeviceId, toDeviceId, bytesPerSecond, records }) => {
      return [`${fromDeviceId} → ${toDeviceId}`, formatRate(bytesPerSecond), String(records)]
    })
    parts.push(renderTable(rows, ['link', 'rate', 'records']))
  }
  parts.push(
    `${color.bold('Prediction error')}, |predicted − measured| ÷ measured, median and 90th percentile, of requests that were not fitted to`,
    renderTable(
      [...errors.map(errorRow), ...total.map(errorRow)],
      ['device', 'what', 'requests', 'knowing nothing', 'having learned', 'fitted'],
    ),
    `As they were served, all requests: time to first token ${errorText(served.ttft)}, time per output token ${errorText(served.tpot)}.`,
  )
  if (modelled.length > 0) {
    parts.push(
      `${color.bold('Modelled times')}: those of ${modelled.join(', ')} follow from the catalogue, not from hardware.`,
    )
  }
  parts.push(
    file === undefined
      ? 'No device has enough records to be written to a catalogue.'
      : `Written to ${file}: give it to a study with --catalogue.`,
  )
  return parts.join('\n\n')
}

function errorRow({ stage, deviceIds, before, learned, after }: StageErrors): string[] {
  const device = deviceIds.length === 0 ? color.bold('all') : deviceIds.join(' → ')
  return [
    device,
    STAGE_NAMES[stage],
    String(after.records),
    errorText(before),
    errorText(learned),
    errorText(after),
  ]
}

function errorText(error: PredictionError | null): string {
  return error === null ? '–' : `${percent(error.median)}, ${percent(error.p90)}`
}

function percent(share: number): string {
  const value = share * 100
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} %`
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new InvalidInputError(
      `${file} cannot be read (${messageOf(error)}): give a file that kvasir calibrate --save has written, or leave --records out to ask the cluster.`,
      {
        param: 'records',
        cause: error,
      },
    )
  }
}

function writeText(file: string, text: string): void {
  try {
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, text)
  } catch (error) {
    throw new InvalidInputError(`Cannot write ${file}: ${messageOf(error)}.`, { cause: error })
  }
}
