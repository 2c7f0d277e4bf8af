/**
 * Which of ONNX Runtime's execution providers computes: the processor, or a GPU through WebGPU or CUDA.
 *
 * U1 A provider is tried in a process of its own before it is used: libraries that fail to load speak on
 *    the terminal and may end their process; here that becomes one sentence.
 * U2 Only matrix work goes to the GPU: KV and attention stay in the host's memory, where blocks are read, sent
 *    and moved. What a provider cannot compute, ONNX Runtime computes on the processor.
 */
import { execFile } from 'node:child_process'
import { tmpdir } from 'node:os'
import { fileURLToPath } from 'node:url'
import { UnsupportedError } from '@kvasir/runtime/errors'
import { z } from 'zod'

export const EXECUTION_PROVIDERS = ['cpu', 'webgpu', 'cuda'] as const
export type ExecutionProvider = (typeof EXECUTION_PROVIDERS)[number]

/** Finding a GPU, loading its libraries and compiling one shader takes seconds at worst. */
const PROBE_MS = 60_000

const probeResult = z.object({ ok: z.boolean(), error: z.string() })

/** Throws UnsupportedError, one sentence for the user, where the provider cannot compute here. */
export async function checkProvider(provider: ExecutionProvider): Promise<void> {
  if (provider === 'cpu') return
  quietLibraries()
  // The same file from src/ and from dist/.
  const script = fileURLToPath(new URL('../dist/provider-probe.js', import.meta.url))
  const { ok, error } = await new Promise<z.output<typeof probeResult>>((resolve) => {
    execFile(
      process.execPath,
      [script, provider],
      { timeout: PROBE_MS, killSignal: 'SIGKILL' },
      (failure, stdout) => {
        const line = stdout.trimEnd().split('\n').at(-1) ?? ''
        try {
          resolve(probeResult.parse(JSON.parse(line)))
        } catch {
          const cause =
            failure?.killed === true ? `no answer within ${PROBE_MS / 1000} s` : 'its process ended'
          resolve({ ok: false, error: cause })
        }
      },
    )
  })
  if (!ok) throw new UnsupportedError(sentenceOf(provider, error), { param: 'provider' })
}

/** Vulkan's loader complains of a variable that only desktops set. The variable is this process's and its children's. */
export function quietLibraries(): void {
  process.env.XDG_RUNTIME_DIR ??= tmpdir()
}

function sentenceOf(provider: Exclude<ExecutionProvider, 'cpu'>, error: string): string {
  if (provider === 'webgpu' && /adapter/i.test(error)) {
    return 'WebGPU finds no GPU here: install the Vulkan driver of the GPU, or use the provider cpu.'
  }
  if (provider === 'cuda' && /shared library|libonnxruntime_providers|\.so/i.test(error)) {
    return "ONNX Runtime's CUDA libraries are not installed here: install them beside onnxruntime-node, or use the provider webgpu or cpu."
  }
  const reason = error.split('\n')[0]?.trim() ?? ''
  return `The provider ${provider} cannot compute here (${reason}); use the provider cpu.`
}
