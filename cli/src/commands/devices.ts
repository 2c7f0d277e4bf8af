/** `kvasir devices`: every device the coordinator knows, what it can do and how full it is. */
import type { ClusterReport, DeviceReport } from '@kvasir/coordinator/generation'
import type { Command } from 'commander'
import { callJson } from '../client/api-client.js'
import { locateCluster } from '../client/locate-cluster.js'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { formatBytes, formatRate } from '../format.js'
import { lateText } from '../pace-text.js'
import { color, print, printJson, renderTable } from '../terminal.js'
import type { Run } from './run-command.js'

export function devicesCommand(program: Command, run: Run): void {
  program
    .command('devices')
    .description('list the devices, what they can do and how full they are')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) => run(() => devices(options.json ?? false)))
}

async function devices(json: boolean): Promise<ExitCode> {
  const { devices } = await callJson<ClusterReport>(locateCluster(), '/v1/cluster')
  if (json) {
    printJson({ devices })
    return EXIT.ok
  }
  if (devices.length === 0)
    print('The coordinator knows no device: check the agents with `npx kvasir status`.')
  else
    print(
      renderTable(devices.map(rowOf), [
        'device',
        'kind',
        'state',
        'can',
        'models',
        'slots',
        'model memory',
        'KV memory',
        'link',
      ]),
    )
  const paced = devices.filter(({ pace }) => pace !== null)
  if (paced.length > 0) print(`\n${pacedNote(paced)}`)
  return EXIT.ok
}

function rowOf(device: DeviceReport): string[] {
  const paint = device.state === 'ready' ? color.green : device.state === 'lost' ? color.red : color.yellow
  const tiers = device.tiers.map(
    (tier) => `${tier.name} ${formatBytes(tier.leasedBytes)} of ${formatBytes(tier.capacityBytes)}`,
  )
  return [
    device.deviceId,
    device.kind,
    paint(device.state),
    device.capabilities.join(', ').toLowerCase(),
    modelsOf(device),
    device.decodeSlots === 0 ? '–' : `${device.decodeSlotsUsed} of ${device.decodeSlots}`,
    device.modelBytes === null
      ? '–'
      : `${formatBytes(device.modelBytesUsed ?? 0)} of ${formatBytes(device.modelBytes)}`,
    tiers.join(', ') || '–',
    device.link.bytesPerSecond > 0
      ? `${device.link.class}, ${formatRate(device.link.bytesPerSecond)}`
      : device.link.class,
  ]
}

/** What the times of these devices are, and whether this machine keeps up. */
function pacedNote(devices: readonly DeviceReport[]): string {
  const rows = devices.flatMap(({ deviceId, pace }) =>
    pace === null ? [] : [[deviceId, pace.device, pace.model, pace.preset, kvTokensOf(pace), lateText(pace)]],
  )
  return `${color.bold('modelled times')}: these devices compute for real, at the pace of the catalogue\n${renderTable(rows, ['device', 'as', 'with', 'preset', 'KV tokens', 'late steps'])}`
}

function kvTokensOf({ kvTokens, cataloguedKvTokens }: NonNullable<DeviceReport['pace']>): string {
  return kvTokens < cataloguedKvTokens
    ? `${kvTokens} (of ${cataloguedKvTokens}: tierBytes and ddrBytes are the bound)`
    : String(kvTokens)
}

function modelsOf({ models, arrivals }: DeviceReport): string {
  const loaded = models.map(({ name, profile, numerics }) => `${name} (${profile}, ${numerics})`)
  const coming = arrivals.map(({ name, state }) => color.yellow(`${name} (${state})`))
  return [...loaded, ...coming].join(', ') || '–'
}
