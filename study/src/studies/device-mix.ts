/**
 * A cluster of other devices: so many of each type, spread over machines like the first one of a cluster file, as many devices in
 * each. How a device is set is taken from the file where it names the type.
 */
import type { Catalogue } from '@kvasir/catalogue/specs'
import type { ClusterPlan } from '../cluster/cluster-plan.js'
import { type ClusterDescription, clusterPlan } from '../cluster-file/cluster-file.js'
import type { DeviceEntry } from '../cluster-file/cluster-schema.js'

/** By device id of the catalogue. */
export type DeviceCounts = Readonly<Record<string, number>>

export function mixedPlan(
  description: ClusterDescription,
  catalogue: Catalogue,
  counts: DeviceCounts,
): ClusterPlan {
  const { entry } = description
  const [template] = entry.machines
  const known = new Map(
    entry.machines.flatMap(({ devices }) => devices).map((device) => [device.device, device]),
  )
  const wanted = Object.entries(counts).filter(([, count]) => count > 0)
  const all = wanted.reduce((sum, [, count]) => sum + count, 0)
  const machines = Math.max(1, Math.ceil(all / machineDevices(description)))
  const entries = Array.from({ length: machines }, (_, machine) => ({
    ...template,
    count: 1,
    // The rest of each type goes to the first machines that have room, so that none is much fuller than another.
    devices: wanted.flatMap(([device, count]): DeviceEntry[] => {
      const here = Math.floor(count / machines) + (machine < count % machines ? 1 : 0)
      return here === 0 ? [] : [{ ...(known.get(device) ?? { device }), count: here }]
    }),
  })).filter(({ devices }) => devices.length > 0)
  const name = wanted.map(([device, count]) => `${count} ${device}`).join(' + ')
  return clusterPlan({ ...description, entry: { ...entry, name, machines: entries } }, catalogue)
}

/** Devices of the file's first machine. */
export function machineDevices({ entry }: ClusterDescription): number {
  return (entry.machines[0]?.devices ?? []).reduce((sum, { count = 1 }) => sum + count, 0)
}
