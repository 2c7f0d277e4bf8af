/**
 * The part of `kvasir explain` about memory: where the prompt's blocks came from, how decoding
 * attended and read its tiers, what was retrieved, and where each stage of that ran and why.
 */
import type { BlockRun, RequestReport, StageReport } from '@kvasir/coordinator/generation'
import { formatBytes, formatCount, formatDuration, formatForeign, formatShare } from '../format.js'
import { color, renderTable } from '../terminal.js'

/** Lines to print, with an empty one before each part; none where nothing happened. */
export function explainMemory(report: RequestReport): string[] {
  return [
    ...explainPrefix(report),
    ...explainAttention(report),
    ...explainRetrieval(report),
    ...explainStages(report),
  ]
}

function explainPrefix({ prefix, promptTokens }: RequestReport): string[] {
  if (prefix === null || prefix.runs.length === 0) return []
  const fetched =
    prefix.fetchedBytes === 0
      ? ''
      : `, ${formatBytes(prefix.fetchedBytes)} fetched${prefix.fetchMs === null ? '' : ` in ${formatDuration(prefix.fetchMs)}`}`
  const held =
    prefix.heldByDecodeTokens === 0
      ? []
      : [`The decoding device held ${formatCount(prefix.heldByDecodeTokens, 'token')} of it already.`]
  return [
    '',
    color.bold(`prompt: ${prefix.cachedTokens} of ${promptTokens} tokens were cached${fetched}`),
    renderTable(prefix.runs.map(runRow), ['blocks', 'tokens', 'from', 'why']),
    ...held,
  ]
}

function runRow(run: BlockRun): string[] {
  const last = run.firstBlock + run.blocks - 1
  const where = { local: 'held by', fetched: 'fetched from', computed: 'computed on' }[run.source]
  return [
    run.blocks <= 1 ? String(run.firstBlock) : `${run.firstBlock}–${last}`,
    String(run.tokens),
    `${where} ${run.device}${run.tier === null ? '' : ` (${run.tier})`}`,
    run.reason,
  ]
}

function explainAttention({ attention, tierReads }: RequestReport): string[] {
  const lines: string[] = []
  if (attention !== null) {
    const where =
      attention.attendDevice === null ? 'on the decoding device' : `with ${attention.attendDevice}`
    const budget =
      attention.method === 'dense' ? '' : `, ${attention.budgetPages} of ${attention.promptPages} pages`
    lines.push('', color.bold(`attention: ${attention.method}${budget}, ${where}`), attention.reason)
    if (attention.pages > 0) {
      const wire = attention.wireBytes === 0 ? '' : `, ${formatBytes(attention.wireBytes)} on the wire`
      lines.push(
        `It read ${formatShare(attention.pagesRead / attention.pages)} of the pages there were${wire}.`,
      )
    }
  }
  if (tierReads.some(({ readBytes }) => readBytes > 0)) {
    const rows = tierReads.map(({ tier, readBytes, movedBytes }) => [
      tier,
      formatBytes(readBytes),
      formatBytes(movedBytes),
    ])
    lines.push('', renderTable(rows, ['tier', 'read while decoding', 'moved into it']))
  }
  return lines
}

function explainRetrieval({ retrieval }: RequestReport): string[] {
  if (retrieval === null) return []
  const title = `retrieved from ${retrieval.corpus}: ${formatCount(retrieval.documents.length, 'document')}`
  const rows = retrieval.documents.map(({ id, title: name, score }) => [
    score.toFixed(2),
    formatForeign(id),
    formatForeign(name),
  ])
  return ['', color.bold(title), ...(rows.length === 0 ? [] : [renderTable(rows, ['score', 'id', 'title'])])]
}

function explainStages({ stages }: RequestReport): string[] {
  if (stages.length === 0) return []
  const head = ['pipeline', 'stage', 'device', 'predicted', 'moving its input', 'measured', 'why']
  const rows = stages.map((stage, index) => [
    stages[index - 1]?.pipeline === stage.pipeline ? '' : stage.pipeline,
    `${stage.stage}: ${stage.what}`,
    stage.devices.join(', '),
    milliseconds(stage.predictedMs),
    moving(stage),
    milliseconds(stage.measuredMs),
    stage.reason,
  ])
  return ['', color.bold('stages'), renderTable(rows, head)]
}

function moving({ transferMs, transferBytes }: StageReport): string {
  return transferBytes === 0 ? '–' : `${formatBytes(transferBytes)}, ${milliseconds(transferMs)}`
}

function milliseconds(ms: number | null): string {
  return ms === null ? '–' : formatDuration(ms)
}
