/** Computes one product with the provider named on the command line and says as JSON whether it was right. */
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { GraphBuilder } from './onnx-graph.js'

const [provider = ''] = process.argv.slice(2)
const SIZE = 64

async function probe(): Promise<string> {
  const graph = new GraphBuilder()
  graph.input('x', 'float32', ['rows', SIZE])
  graph.input('w', 'float32', [SIZE, SIZE])
  graph.node('MatMul', ['x', 'w'], ['y'])
  graph.output('y', ['rows', SIZE])
  const session = await InferenceSession.create(graph.build('probe'), {
    executionProviders: [provider],
    logSeverityLevel: 4,
  })
  const x = new Tensor('float32', new Float32Array(2 * SIZE).fill(1), [2, SIZE])
  const w = new Tensor('float32', new Float32Array(SIZE * SIZE).fill(0.5), [SIZE, SIZE])
  const { y } = await session.run({ x, w })
  const isRight = y?.data.length === 2 * SIZE && [...y.data].every((value) => value === SIZE / 2)
  return isRight ? '' : 'it computes wrong numbers'
}

function say(error: string): void {
  // Libraries that write to stdout end no line of ours.
  process.stdout.write(`\n${JSON.stringify({ ok: error === '', error })}\n`, () => process.exit(0))
}

probe().then(say, (thrown: unknown) => say(thrown instanceof Error ? thrown.message : String(thrown)))
