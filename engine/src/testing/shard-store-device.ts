/** The BM25 kernels without a device: a shard store in this thread. */
import { InvalidInputError, UnsupportedError } from '@kvasir/runtime/errors'
import { BM25_LIMITS } from '../bm25/bm25.js'
import { ShardStore } from '../bm25/shard-store.js'
import type { Bm25Device } from '../conformance/bm25-suite.js'
import type { DriverDescription } from '../device-driver.js'
import type { KernelInput, KernelName, KernelOutput } from '../kernels.js'

type Kernel = { readonly [Name in KernelName]?: (input: KernelInput<Name>) => KernelOutput<Name> }

export class ShardStoreDevice implements Bm25Device {
  readonly store = new ShardStore()
  private readonly kernels: Kernel = {
    'bm25-load': ({ key, shard }) => this.store.load(key, shard),
    'bm25-unload': ({ key }) => this.store.unload(key) as undefined,
    'bm25-search': (input) => this.store.search(input),
  }

  constructor(private readonly shardBytes = 64 << 20) {}

  describe(): DriverDescription {
    const { shardBytes } = this
    return {
      name: 'shard-store',
      kernels: [
        { name: 'bm25-load', version: 1, limits: { shardBytes } },
        { name: 'bm25-unload', version: 1, limits: {} },
        { name: 'bm25-search', version: 1, limits: BM25_LIMITS },
      ],
      rowsMax: 0,
    }
  }

  async runKernel<Name extends KernelName>(
    name: Name,
    input: KernelInput<Name>,
  ): Promise<KernelOutput<Name>> {
    const kernel = this.kernels[name]
    if (kernel === undefined) throw new UnsupportedError(`This device has no kernel ${name}.`)
    if ('shard' in input && input.shard.length > this.shardBytes) {
      throw new InvalidInputError(`A shard has at most ${this.shardBytes} bytes.`, { param: 'shardBytes' })
    }
    return kernel(input)
  }

  async close(): Promise<void> {}
}
