/** The request that `npm start` runs through a fresh cluster, and what it prints of it. */
import type { RequestReport } from '@kvasir/coordinator/generation'
import { callJson } from '../client/api-client.js'
import { type GenerationResult, generate, tpotMsOf, ttftMsOf } from '../client/generation.js'
import { firstModel } from '../client/models.js'
import { formatBytes, formatCount, formatDuration, formatRate, formatShare } from '../format.js'
import { modelledText } from '../pace-text.js'
import { color, print, renderTable } from '../terminal.js'

/** Long enough for a KV cache whose way is worth watching. */
const prompt = [
  'Once upon a time there was an old smith who lived at the edge of a dark forest, and he had one daughter, who was as clever as she was kind. The smith was poor, for few people came so far from the town, but he had never turned a beggar from his door. One winter evening, when the snow lay deep upon the hills, there came a knock, and a little grey man stood upon the step with ice in his beard.',
  '"Good smith," said the little man, "I have walked all day, and my lantern is broken. Will you mend it for me, and let me sit by your fire until it is done?"',
  'The smith bade him come in, and the girl gave him bread and the last of the milk. Then the smith blew up his fire and took his hammer, and before the bread was eaten the lantern was as good as new. The little man looked at it for a long time, and he was well pleased.',
  '"I have no gold to give you," he said, "but I will tell you a thing that is worth more than gold. Three times in the night you shall hear a voice that calls your name from among the trees. Do not answer the first time, nor the second. But when it calls the third time, take this lantern and go where it leads you, and do not look behind you until the sun is in the sky."',
  'When he had said this he was gone, and nobody had seen him open the door. The girl would have laughed, but the lantern stood upon the table and burned with a clear blue light, and no wind could make it tremble. So they sat and waited. The fire was low, and the wind came down from the hills, and the voice called once, and the smith did not stir. It called again, and he held his daughter by the hand. And when it called the third time, he rose up and took the lantern, opened the door, and',
].join('\n')

/** Of the prompt, printed: its last sentences. */
const promptShown = prompt.slice(prompt.indexOf('So they sat and waited.'))

/** Its text is the same on every machine, since the default cluster computes in profile exact. */
const sampling = { maxTokens: 48, temperature: 0.7, topP: 0.9, seed: 13 }

export async function runFirstRequest(url: string, signal: AbortSignal): Promise<void> {
  const model = await firstModel(url)
  print(`\n${color.dim(`(a tale of ${prompt.split(/\s+/).length} words, which ends:) ${promptShown}`)}`)
  const result = await generate(url, { model: model.id, prompt, chat: false, ...sampling }, signal, (text) =>
    process.stdout.write(text),
  )
  const report = await callJson<RequestReport>(url, `/v1/requests/${result.requestId}`)
  print(`\n\n${renderTable(factsOf(result, report))}`)
  const modelled = modelledText(report.modelled)
  if (modelled !== undefined) print(color.yellow(modelled))
  print(`\n${nextSteps(url, model.id, result)}\n`)
}

/** One row a fact. */
function factsOf(result: GenerationResult, report: RequestReport): string[][] {
  const placement = report.placements.at(-1)
  const { kv } = report
  const transfer =
    kv.bytes === 0
      ? 'none'
      : `${formatBytes(kv.bytes)} in ${formatCount(kv.chunks, 'chunk')}, ${formatRate(kv.bytesPerSecond)}`
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
