/**
 * Traces of one's own, as CSV with a header or as JSON lines. Fields, in any order:
 *
 * - `arrival_ms`, `arrival_s`, or `timestamp` (a date and time, or milliseconds), one of them; `prompt_tokens`; `output_tokens`
 * - optional `max_tokens`, `tenant`, `priority`, `ttft_deadline_ms`, `leaves_after_ms`
 * - optional `blocks`: ids of the prompt's blocks of `block_tokens` tokens (16 without it), a list in JSON, separated by spaces in CSV.
 *   Equal ids mean equal content after equal beginnings.
 */
import { PRIORITY_MAX, PRIORITY_MIN } from '@kvasir/coordinator/core/admission-setting'
import { InvalidInputError } from '@kvasir/runtime/errors'
import {
  csvHeader,
  csvRecords,
  hasColumns,
  jsonRecord,
  needColumns,
  neededJsonRecord,
  type TraceFormat,
} from './trace-format.js'
import {
  BrokenRow,
  blockIdsOf,
  dateTimeMs,
  finiteNumber,
  outputTokensOf,
  positiveNumber,
  promptTokensOf,
  type TraceRow,
  wholeNumber,
} from './trace-row.js'

const LENGTHS = ['prompt_tokens', 'output_tokens']
const TIMES = ['arrival_ms', 'arrival_s', 'timestamp']
const ID_TOKENS = 16
const ID_TOKENS_MAX = 65_536

export const csvFormat: TraceFormat = {
  name: 'csv',
  hasHeader: true,
  isRecognised(line) {
    const header = csvHeader(line)
    return hasColumns(header, LENGTHS) && TIMES.some((name) => header.columns.has(name))
  },
  reader(firstLine) {
    const header = csvHeader(firstLine)
    needColumns(header, 'csv', LENGTHS)
    if (!TIMES.some((name) => header.columns.has(name))) {
      throw new InvalidInputError(`A trace of format csv needs one of the columns ${TIMES.join(', ')}.`, {
        param: 'format',
      })
    }
    const record = csvRecords(header)
    return (line) => {
      const cell = record(line)
      const blocks = cell('blocks')
      return rowOf(cell, blocks?.split(/\s+/))
    }
  },
}

export const jsonlFormat: TraceFormat = {
  name: 'jsonl',
  hasHeader: false,
  isRecognised(line) {
    const record = jsonRecord(line)
    return record !== undefined && LENGTHS.every((name) => name in record)
  },
  reader: () => (line) => {
    const record = neededJsonRecord(line)
    return rowOf((field) => record[field] ?? undefined, record.blocks)
  },
}

function rowOf(field: (name: string) => unknown, blocks: unknown): TraceRow {
  const [tenant, priority, maxTokens] = [field('tenant'), field('priority'), field('max_tokens')]
  const [deadline, leaves] = [field('ttft_deadline_ms'), field('leaves_after_ms')]
  const promptTokens = promptTokensOf(field('prompt_tokens'), 'prompt_tokens')
  const outputTokens = outputTokensOf(field('output_tokens'), 'output_tokens')
  if (tenant !== undefined && typeof tenant !== 'string') throw new BrokenRow('tenant must be a text')
  return {
    timeMs: timeOf(field),
    promptTokens,
    outputTokens,
    ...(maxTokens === undefined ? {} : { maxTokens: outputTokensOf(maxTokens, 'max_tokens') }),
    ...(tenant === undefined ? {} : { tenant }),
    ...(priority === undefined
      ? {}
      : { priority: wholeNumber(priority, 'priority', PRIORITY_MIN, PRIORITY_MAX) }),
    ...(deadline === undefined ? {} : { ttftDeadlineMs: positiveNumber(deadline, 'ttft_deadline_ms') }),
    ...(leaves === undefined ? {} : { leavesAfterMs: positiveNumber(leaves, 'leaves_after_ms') }),
    ...(blocks === undefined ? {} : idsOf(blocks, field('block_tokens'), promptTokens)),
  }
}

function idsOf(blocks: unknown, tokens: unknown, promptTokens: number): Pick<TraceRow, 'ids' | 'idTokens'> {
  const ids = blockIdsOf(blocks, 'blocks')
  const idTokens = tokens === undefined ? ID_TOKENS : wholeNumber(tokens, 'block_tokens', 1, ID_TOKENS_MAX)
  if (ids.length > Math.ceil(promptTokens / idTokens)) {
    throw new BrokenRow(
      `blocks has ${ids.length} ids of ${idTokens} tokens, more than a prompt of ${promptTokens} has`,
    )
  }
  return { ids, idTokens }
}

function timeOf(field: (name: string) => unknown): number {
  const [ms, s, timestamp] = TIMES.map(field)
  if (ms !== undefined) return finiteNumber(ms, 'arrival_ms')
  if (s !== undefined) return finiteNumber(s, 'arrival_s') * 1_000
  if (typeof timestamp === 'string' && Number.isNaN(Number(timestamp)))
    return dateTimeMs(timestamp, 'timestamp')
  return finiteNumber(
    timestamp,
    timestamp === undefined ? 'the time (arrival_ms, arrival_s or timestamp)' : 'timestamp',
  )
}
