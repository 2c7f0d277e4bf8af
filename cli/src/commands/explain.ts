/** `kvasir explain ID`: where a request was placed and why, and how the prediction compares. */
import { FILTER_TEXT } from '@kvasir/coordinator/core/decision'
import type { PlacementReport, RequestReport } from '@kvasir/coordinator/generation'
import type { Command } from 'commander'
import { callJson } from '../client/api-client.js'
import { locateCluster } from '../client/locate-cluster.js'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { formatBytes, formatCount, formatDuration, formatRate, formatShare } from '../format.js'
import { modelledText } from '../pace-text.js'
import { color, print, printJson, renderTable } from '../terminal.js'
import { explainMemory } from './explain-memory.js'
import type { Run } from './run-command.js'

/** Pairs shown without --all. */
const pairsShown = 3

export function explainCommand(program: Command, run: Run): void {
  program
    .command('explain <id>')
    .description('say why a request was placed where it was; ID is a request or trace id')
    .option('--all', 'show every pair of devices that was weighed')
    .option('--json', 'print one JSON document')
    .action((id: string, options: { all?: boolean; json?: boolean }) =>
      run(async (): Promise<ExitCode> => {
        const report = await callJson<RequestReport>(
          locateCluster(),
          `/v1/requests/${encodeURIComponent(id)}`,
        )
        if (options.json) printJson(report)
        else print(explain(report, options.all ?? false))
        return EXIT.ok
      }),
    )
}

function explain(report: RequestReport, all: boolean): string {
  const lines = [
    `${color.bold(report.requestId)}  ${report.state}${report.error === null ? '' : `: ${report.error}`}`,
    `trace ${report.traceId}, model ${report.model}, ${report.promptTokens} tokens in (${report.cachedTokens} cached), ` +
      `${report.completionTokens} out`,
  ]
  if (report.placements.length === 0) lines.push('', 'It was not placed.')
  for (const placement of report.placements) lines.push('', ...explainPlacement(placement, all))
  lines.push('', explainWait(report), comparison(report))
  if (report.kv.bytes > 0) {
    lines.push(
      '',
      `KV cache: ${formatBytes(report.kv.bytes)}${standsFor(report.kv.modelledBytes)} in ${formatCount(report.kv.chunks, 'chunk')}, ${formatRate(report.kv.bytesPerSecond)}, ` +
        `${formatShare(report.kv.overlap)} hidden behind prefill`,
    )
  }
  const modelled = modelledText(report.modelled)
  if (modelled !== undefined)
    lines.push('', `${color.yellow(modelled)}: the devices compute for real, the clock is the catalogue's.`)
  lines.push(...explainMemory(report))
  if (report.numericsChanged) {
    lines.push(
      'A part was computed with other numerics, on another device or after attention moved, so its text may differ from an undisturbed run.',
    )
  }
  if (report.nearTies > 0) {
    lines.push(
      `${report.nearTies} steps were near ties: another summation order could have chosen otherwise.`,
    )
  }
  return lines.join('\n')
}

function explainPlacement(placement: PlacementReport, all: boolean): string[] {
  const numbers =
    placement.profile === 'exact' ? '' : `, profile ${placement.profile} (${placement.numerics})`
  const title = `placement ${placement.epoch}: ${placement.prefillDevice} prefills, ${placement.decodeDevice} decodes${numbers}`
  const shown = placement.weighed.slice(0, all ? undefined : pairsShown)
  const rows = shown.map((pair, index) => [
    index === 0 ? '→' : '',
    pair.prefillDevice,
    pair.decodeDevice,
    formatDuration(pair.ttftMs),
    formatDuration(pair.tpotMs),
  ])
  const hidden = placement.weighed.length - shown.length
  return [
    color.bold(title),
    placement.reason,
    renderTable(rows, ['', 'prefill', 'decode', 'first token', 'each token']),
    ...(hidden > 0 ? [color.dim(`and ${hidden} more (--all)`)] : []),
    ...turnedAway('prefill', placement.filtered.prefill),
    ...turnedAway('decode', placement.filtered.decode),
  ]
}

function standsFor(modelledBytes: number | null): string {
  return modelledBytes === null ? '' : ` (which stand for ${formatBytes(modelledBytes)})`
}

function explainWait({ admission: { priority, ttftDeadlineMs, reason } }: RequestReport): string {
  const asked = [
    ...(priority === 0 ? [] : [`priority ${priority}`]),
    ...(ttftDeadlineMs === null ? [] : [`first token due within ${formatDuration(ttftDeadlineMs)}`]),
  ]
  return `${reason}${asked.length === 0 ? '' : ` It asked for ${asked.join(', ')}.`}`
}

function turnedAway(role: string, counts: Readonly<Record<string, number>>): string[] {
  const texts: Readonly<Record<string, string>> = FILTER_TEXT
  const reasons = Object.entries(counts).map(([reason, count]) => `${count} ${texts[reason] ?? reason}`)
  return reasons.length === 0 ? [] : [`devices turned away for ${role}: ${reasons.join(', ')}`]
}

function comparison({ predicted, measured }: RequestReport): string {
  const ms = (value: number | null | undefined) =>
    value === null || value === undefined ? '–' : formatDuration(value)
  return renderTable(
    [
      ['waited', '–', ms(measured.queueMs)],
      ['first token', ms(predicted?.ttftMs), ms(measured.ttftMs)],
      ['each token', ms(predicted?.tpotMs), ms(measured.tpotMs)],
    ],
    ['', 'predicted', 'measured'],
  )
}
