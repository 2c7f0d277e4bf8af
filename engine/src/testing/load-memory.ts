/** `MODEL NUMERICS`: loads a model in this process and prints the bytes by which its memory grew. */
import { EXACT, PAPER_QUANTISED } from '../numerics.js'
import { Transformer } from '../transformer.js'

const [model = '', numerics] = process.argv.slice(2)
const before = process.memoryUsage.rss()
const { facts } = await Transformer.load(
  { model, numerics: numerics === 'paper' ? PAPER_QUANTISED : EXACT, kvBlocksMax: 4 },
  { threads: 1 },
  () => false,
)
globalThis.gc?.()
process.stdout.write(
  JSON.stringify({ grownBytes: process.memoryUsage.rss() - before, weightBytes: facts.weightBytes }),
)
