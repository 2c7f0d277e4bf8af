/**
 * `kvasir kv`: where KV blocks are, tier by tier, and how often they were found there.
 * `kvasir kv evict`: devices give up the blocks that nobody leases.
 */
import type { KvEviction, KvReport } from '@kvasir/coordinator/generation'
import type { Command } from 'commander'
import { answerMsMax, callApi, callJson } from '../client/api-client.js'
import { locateCluster } from '../client/locate-cluster.js'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { formatBytes, formatCount, formatRate, formatShare } from '../format.js'
import { color, print, printJson, renderTable } from '../terminal.js'
import type { Run } from './run-command.js'

/** An agent may take its time to hand its blocks to the host tier. */
const evictMsMax = 2 * answerMsMax

interface EvictOptions {
  readonly drop?: boolean
  readonly json?: boolean
}

export function kvCommand(program: Command, run: Run): void {
  const kv = program
    .command('kv')
    .description('show where KV blocks are, tier by tier, and how often they were found')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) =>
      run(async (): Promise<ExitCode> => {
        const report = await callJson<KvReport>(locateCluster(), '/v1/kv')
        if (options.json) printJson(report)
        else print(tiers(report))
        return EXIT.ok
      }),
    )
  kv.command('evict [device]')
    .description('make a device (all but host memory by default) give up the blocks that nobody leases')
    .option('--drop', 'drop them, of host memory too; else they go to the host tier first')
    .option('--json', 'print one JSON document')
    .action((device: string | undefined, _options: EvictOptions, command: Command) =>
      // --json is an option of `kv` too, which takes it wherever it stands.
      run(() => evict(device, command.optsWithGlobals<EvictOptions>())),
    )
}

async function evict(device: string | undefined, options: EvictOptions): Promise<ExitCode> {
  const response = await callApi(locateCluster(), '/v1/kv/evict', {
    method: 'POST',
    body: { ...(device === undefined ? {} : { device }), drop: options.drop ?? false },
    signal: AbortSignal.timeout(evictMsMax),
  })
  const answer = (await response.json()) as { readonly devices: readonly KvEviction[] }
  if (options.json) printJson(answer)
  else {
    const rows = answer.devices.map(({ deviceId, blocks, error }) => [
      deviceId,
      error === null ? formatCount(blocks, 'block') : color.red(error),
    ])
    print(rows.length === 0 ? 'No device holds KV blocks.' : renderTable(rows))
  }
  return answer.devices.some(({ error }) => error !== null) ? EXIT.failure : EXIT.ok
}

function tiers({ directory, devices }: KvReport): string {
  const rows = devices.flatMap((device) =>
    device.tiers.map((tier, index) => [
      index === 0 ? device.deviceId : '',
      tier.name,
      formatBytes(tier.capacityBytes),
      formatBytes(tier.leasedBytes),
      formatBytes(tier.cachedBytes),
      `${formatRate(tier.bandwidthBytesPerSecond)}${tier.modelled ? ' (model)' : ''}`,
      tier.lookups === 0 ? '–' : `${formatShare(tier.hitRate)} of ${tier.lookups}`,
      formatBytes(tier.inBytes),
      formatBytes(tier.outBytes),
      formatBytes(tier.readBytes),
    ]),
  )
  if (rows.length === 0) return 'No device holds KV blocks: check the agents with `npx kvasir status`.'
  const head = ['device', 'tier', 'holds', 'leased', 'cached', 'bandwidth', 'hits', 'in', 'out', 'read']
  const healing =
    directory.healing.length === 0 ? '' : `; being read again from ${directory.healing.join(', ')}`
  return [
    renderTable(rows, head),
    '',
    `The directory knows ${formatCount(directory.blocks, 'block')} of at most ${directory.blocksMax}${healing}.`,
  ].join('\n')
}
