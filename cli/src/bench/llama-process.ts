/**
 * llama.cpp's side of `kvasir bench llama`: URL of node-llama-cpp, GGUF file, threads. As it comes but for the processor
 * and the threads, and a batch that takes the whole prompt.
 */
import type { LlamaTimes, LlamaWork } from './llama-work.js'
import { answerQuestions } from './measuring-process.js'

/** As much of node-llama-cpp as is used. */
interface NodeLlama {
  getLlama(options: Readonly<Record<string, unknown>>): Promise<{
    loadModel(options: Readonly<Record<string, unknown>>): Promise<{
      createContext(options: Readonly<Record<string, unknown>>): Promise<{
        getSequence(): {
          clearHistory(): Promise<void>
          evaluate(
            tokens: readonly number[],
            options: Readonly<Record<string, unknown>>,
          ): AsyncIterable<number>
        }
      }>
    }>
  }>
}

const contextTokens = 1024

await answerQuestions<LlamaWork, LlamaTimes>(async () => {
  const [url = '', modelPath = '', threads = '1'] = process.argv.slice(2)
  const library: NodeLlama = await import(url)
  const llama = await library.getLlama({
    gpu: false,
    build: 'never',
    skipDownload: true,
    maxThreads: Number(threads),
    logLevel: 'error',
    progressLogs: false,
  })
  const model = await llama.loadModel({ modelPath, gpuLayers: 0 })
  const context = await model.createContext({
    contextSize: contextTokens,
    batchSize: contextTokens,
    threads: { ideal: Number(threads), min: Number(threads) },
  })
  const sequence = context.getSequence()
  return async ({ promptTokens, newTokens }) => {
    await sequence.clearHistory()
    const begin = performance.now()
    const tokenMs: number[] = []
    // As an answer goes on: greedily, past tokens that end a text.
    for await (const _ of sequence.evaluate(promptTokens, { temperature: 0, yieldEogToken: true })) {
      tokenMs.push(performance.now() - begin)
      if (tokenMs.length === newTokens) break
    }
    const [ttftMs = Number.NaN] = tokenMs
    return { ttftMs, tpotMs: ((tokenMs.at(-1) ?? Number.NaN) - ttftMs) / (tokenMs.length - 1) }
  }
})
