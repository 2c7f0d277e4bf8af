import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterEach, expect, test, vi } from 'vitest'
import { checkProvider } from './execution-provider.js'

const cudaLibrary = fileURLToPath(
  new URL(
    `./bin/napi-v6/${process.platform}/${process.arch}/libonnxruntime_providers_cuda.so`,
    import.meta.resolve('onnxruntime-node/package.json'),
  ),
)
afterEach(() => vi.unstubAllEnvs())

test('the processor is always there', () => expect(checkProvider('cpu')).resolves.toBeUndefined())

test('a GPU that is not there is one sentence with the next step', { timeout: 90_000 }, async () => {
  // No Vulkan driver is found, on whatever machine this runs.
  vi.stubEnv('VK_DRIVER_FILES', '/nonexistent.json')
  vi.stubEnv('VK_ICD_FILENAMES', '/nonexistent.json')
  await expect(checkProvider('webgpu')).rejects.toMatchObject({
    code: 'unsupported',
    message: 'WebGPU finds no GPU here: install the Vulkan driver of the GPU, or use the provider cpu.',
  })
})

test.skipIf(existsSync(cudaLibrary))('CUDA without its libraries is one sentence', { timeout: 90_000 }, () =>
  expect(checkProvider('cuda')).rejects.toMatchObject({
    message: expect.stringMatching(/^ONNX Runtime's CUDA libraries are not installed here: .*cpu\.$/),
  }),
)
