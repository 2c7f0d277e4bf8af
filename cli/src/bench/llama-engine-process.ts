/** Our side of `kvasir bench llama`: GGUF file, `int4` for matrices as they are stored or `f32`, threads. */
import { createLocalGenerator } from '@kvasir/engine/local-generator'
import type { LlamaTimes, LlamaWork } from './llama-work.js'
import { answerQuestions } from './measuring-process.js'
import { engineStream } from './streams.js'

await answerQuestions<LlamaWork, LlamaTimes>(async () => {
  const [model = '', weights, threads = '1'] = process.argv.slice(2)
  const engine = await createLocalGenerator({
    model,
    numerics: { weights: weights === 'int4' ? 'int4' : 'f32', pool: 'f32', wire: 'f32' },
    threads: Number(threads),
  })
  return (work) => engineStream(engine, { model, ...work }, new AbortController().signal)
})
