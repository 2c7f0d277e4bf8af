/** What a device's weights take, as its process shows it. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

async function load(numerics: 'exact' | 'paper') {
  const script = fileURLToPath(new URL('../dist/testing/load-memory.js', import.meta.url))
  const args = ['--expose-gc', script, 'dummy:llama-0.1b', numerics]
  const { stdout } = await promisify(execFile)(process.execPath, args)
  return JSON.parse(stdout) as { grownBytes: number; weightBytes: number }
}

it('weights in 4 bits take well under half of the memory that they take in f32, as loaded', async () => {
  const [float, packed] = [await load('exact'), await load('paper')]
  // The weights themselves: 4 bits and a scale of 32 in 32, a head of 8 bits beside.
  expect(packed.weightBytes / float.weightBytes).toBeLessThan(0.16)
  expect(float.grownBytes).toBeGreaterThan(float.weightBytes * 0.9)
  // ONNX Runtime keeps more beside them than beside f32, and every process takes some.
  expect(packed.grownBytes).toBeLessThan(float.grownBytes * 0.4)
}, 60_000)
