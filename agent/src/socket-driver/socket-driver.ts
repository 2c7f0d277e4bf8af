/**
 * A device whose driver is a process of its own, behind a Unix socket. Nothing of a model or of what computes
 * it is loaded here.
 */
import type { DeviceDriver } from '@kvasir/engine/device-driver'
import type { KernelInput, KernelOutput, SearchKernelName } from '@kvasir/engine/kernels'
import { UnsupportedError } from '@kvasir/runtime/errors'
import { SEARCH_KERNELS } from './kernel-messages.js'
import { inspectMessage, loadedOf, planOf } from './model-messages.js'
import { type ConnectionWish, openConnection } from './open-connection.js'
import { socketModel } from './socket-model.js'

/**
 * Resolves when the driver has said Hello. Throws UnavailableError where none does in time, UnsupportedError
 * for one that speaks another version.
 */
export async function connectSocketDriver(wish: ConnectionWish): Promise<DeviceDriver> {
  const connection = await openConnection(wish)
  const { name, rowsMax, deviceModel } = connection.hello
  const kernels = connection.hello.kernels.map(({ name: kernel, version, limits }) => ({
    name: kernel,
    version,
    limits: Object.fromEntries(Object.entries(limits).map(([limit, most]) => [limit, Number(most)])),
  }))
  const checkKernel = (kernel: string) => {
    if (kernels.some((declared) => declared.name === kernel)) return
    const all = kernels.map((declared) => declared.name).join(', ')
    throw new UnsupportedError(`This device has no kernel ${kernel}; it has ${all}.`)
  }
  return {
    lost: connection.lost,
    describe: () => ({ name, kernels, rowsMax, ...(deviceModel === '' ? {} : { deviceModel }) }),
    inspectModel: (options) =>
      connection.call({ $case: 'inspect', value: inspectMessage(options) }, { read: planOf }),
    async loadModel(options) {
      const value = { ...inspectMessage(options), kvBlocksMax: options.kvBlocksMax }
      const loaded = await connection.call(
        { $case: 'load', value },
        { read: (said) => loadedOf(said, options) },
      )
      return socketModel(connection, loaded, checkKernel)
    },
    async runKernel<Name extends SearchKernelName>(
      kernel: Name,
      input: KernelInput<Name>,
    ): Promise<KernelOutput<Name>> {
      checkKernel(kernel)
      const { request, ...options } = SEARCH_KERNELS[kernel](input)
      return connection.call(request, options)
    },
    close: () => connection.close(),
  }
}
