/**
 * Formats of published traces.
 *
 * - Azure LLM inference traces of 2023 and 2024 (CC-BY-4.0): TIMESTAMP, ContextTokens, GeneratedTokens; date and time with up to
 *   seven digits of a second, in 2024 with a time zone.
 * - Mooncake (FAST'25): JSON lines of timestamp (milliseconds), input_length, output_length, hash_ids: ids of the prompt's blocks of 512
 *   tokens, the last of which may be partial, chained, so that an id stands for everything before it as well.
 * - BurstGPT: Timestamp (seconds), Model, Request tokens, Response tokens, Total tokens, Log Type; newer files with Session ID and
 *   Elapsed time. A response of 0 tokens is a request that failed.
 */
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
  promptTokensOf,
} from './trace-row.js'

const AZURE_COLUMNS = ['timestamp', 'contexttokens', 'generatedtokens']

export const azureFormat: TraceFormat = {
  name: 'azure',
  hasHeader: true,
  isRecognised: (line) => hasColumns(csvHeader(line), AZURE_COLUMNS),
  reader(firstLine) {
    const header = csvHeader(firstLine)
    needColumns(header, 'azure', AZURE_COLUMNS)
    const record = csvRecords(header)
    return (line) => {
      const cell = record(line)
      return {
        timeMs: dateTimeMs(cell('timestamp') ?? '', 'TIMESTAMP'),
        promptTokens: promptTokensOf(cell('contexttokens'), 'ContextTokens'),
        outputTokens: outputTokensOf(cell('generatedtokens'), 'GeneratedTokens'),
      }
    }
  },
}

const MOONCAKE_ID_TOKENS = 512

export const mooncakeFormat: TraceFormat = {
  name: 'mooncake',
  hasHeader: false,
  isRecognised(line) {
    const record = jsonRecord(line)
    return record !== undefined && 'input_length' in record && 'output_length' in record
  },
  reader: () => (line) => {
    const record = neededJsonRecord(line)
    const promptTokens = promptTokensOf(record.input_length, 'input_length')
    const row = {
      timeMs: finiteNumber(record.timestamp, 'timestamp'),
      promptTokens,
      outputTokens: outputTokensOf(record.output_length, 'output_length'),
    }
    if (record.hash_ids === undefined) return row
    const ids = blockIdsOf(record.hash_ids, 'hash_ids')
    const needed = Math.floor(promptTokens / MOONCAKE_ID_TOKENS)
    if (ids.length < needed) {
      throw new BrokenRow(
        `hash_ids has ${ids.length} ids; ${promptTokens} tokens have ${needed} full blocks of ${MOONCAKE_ID_TOKENS}`,
      )
    }
    return { ...row, ids, idTokens: MOONCAKE_ID_TOKENS }
  },
}

const BURSTGPT_COLUMNS = ['timestamp', 'request_tokens', 'response_tokens']

export const burstGptFormat: TraceFormat = {
  name: 'burstgpt',
  hasHeader: true,
  isRecognised: (line) => hasColumns(csvHeader(line), BURSTGPT_COLUMNS),
  reader(firstLine) {
    const header = csvHeader(firstLine)
    needColumns(header, 'burstgpt', BURSTGPT_COLUMNS)
    const record = csvRecords(header)
    return (line) => {
      const cell = record(line)
      if (Number(cell('response_tokens')) === 0) {
        throw new BrokenRow('Response tokens is 0: the request failed when the trace was taken')
      }
      return {
        timeMs: finiteNumber(cell('timestamp'), 'Timestamp') * 1_000,
        promptTokens: promptTokensOf(cell('request_tokens'), 'Request tokens'),
        outputTokens: outputTokensOf(cell('response_tokens'), 'Response tokens'),
      }
    }
  },
}
