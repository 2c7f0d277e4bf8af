/** The request that `npm start` runs through a fresh cluster, and what it prints of it. */
import type { RequestReport } from '@kvasir/coordinator/generation'
import { callJson } from '../client/api-client.js'
import { type GenerationResult, generate, tpotMsOf, ttftMsOf } from '../client/generation.js'
import { firstModel } from '../client/models.js'
import { formatBytes, formatDuration, formatRate, formatShare } from '../format.js'
import { color, print, renderTable } from '../terminal.js'

const prompt =
  'Once upon a time there was an old smith who lived at the edge of a dark forest. Every evening, when the ' +
  'fire was low and the wind came down from the hills, he heard a voice that called his name from among the ' +
  'trees. One night he took his lantern and his hammer, opened the door, and'

/** Its text is the same on every machine, since the default cluster computes in profile exact. */
const sampling = { maxTokens: 48, temperature: 0.7, topP: 0.9, seed: 7 }

export async function runFirstRequest(url: string, signal: AbortSignal): Promise<void> {
  const model = await firstModel(url)
  print(`\n${color.dim(prompt)}`)
  const result = await generate(url, { model: model.id, prompt, chat: false, ...sampling }, signal, (text) =>
    process.stdout.write(text),
  )
  const report = await callJson<RequestReport>(url, `/v1/requests/${result.requestId}`)
  print(`\n\n${renderTable(factsOf(result, report))}`)
  print(`\n${nextSteps(url, model.id, result)}\n`)
}

/** One row a fact. */
function factsOf(result: GenerationResult, report: RequestReport): string[][] {
  const placement = report.placements.at(-1)
  const { kv } = report
  const transfer =
    kv.bytes === 0
      ? 'none'
      : `${formatBytes(kv.bytes)} in ${kv.chunks} chunks, ${formatRate(kv.bytesPerSecond)}`
  const ms = (value: number | undefined) => (value === undefined ? '–' : formatDuration(value))
  return [
    ['prefilled by', placement?.prefillDevice ?? '–'],
    ['decoded by', placement?.decodeDevice ?? '–'],
    ['KV cache moved', transfer],
    ['hidden behind prefill', formatShare(kv.overlap)],
    ['first token (TTFT)', ms(ttftMsOf(result))],
    ['each token (TPOT)', ms(tpotMsOf(result))],
    ['tokens', `${result.usage.promptTokens} in, ${result.usage.completionTokens} out`],
    ['trace', result.traceId],
  ].map(([name = '', value = '']) => [color.dim(name), value])
}

function nextSteps(url: string, model: string, result: GenerationResult): string {
  const body = JSON.stringify({
    model,
    messages: [{ role: 'user', content: 'Once upon a time' }],
    stream: true,
  })
  return [
    color.bold('What to try next'),
    `  npx kvasir trace ${result.requestId}`,
    `  npx kvasir explain ${result.requestId}`,
    `  npx kvasir run "Far away in the north"`,
    `  curl -N ${url}/v1/chat/completions -H 'content-type: application/json' -d '${body}'`,
    '  with the openai client:',
    `    const client = new OpenAI({ baseURL: '${url}/v1', apiKey: 'none' })`,
    `    await client.chat.completions.create({ model: '${model}', messages: [{ role: 'user', content: 'Hello' }] })`,
  ].join('\n')
}
