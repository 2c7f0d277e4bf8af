/**
 * What was fitted as a file that a catalogue takes: the devices with their advertised peaks, a preset for each model with
 * the efficiencies as utilisations. An efficiency above 1, of a peak that was advertised too low, raises the peak instead.
 */
import type { PrecisionId } from '@kvasir/catalogue/specs'
import type { CompletionHistory } from '@kvasir/coordinator/core/completion-record'
import { CostModel, keyWidth, prefillOpsPerSecond } from '@kvasir/coordinator/core/cost-model'
import type { DeviceFacts, ModelFacts, PrecisionName, Role } from '@kvasir/coordinator/core/facts'
import { stringify } from 'yaml'
import type { Calibration } from './calibrate.js'
import type { FittedEfficiency } from './fit.js'

const PRECISIONS: Readonly<Record<PrecisionName, PrecisionId>> = {
  f32: 'fp32',
  f16: 'fp16',
  bf16: 'bf16',
  int8: 'int8',
  int4: 'int4',
}

/** Ids of the devices are those of the cluster; null where nothing was fitted. */
export function catalogueYaml(history: CompletionHistory, { fit, requests }: Calibration): string | null {
  const fits = [...new Set(fit.efficiencies.map(({ deviceId }) => deviceId))].flatMap((deviceId) => {
    const device = history.devices.find((facts) => facts.deviceId === deviceId)
    return device && device.tiers.length > 0
      ? [{ device, own: fit.efficiencies.filter((one) => one.deviceId === deviceId) }]
      : []
  })
  if (fits.length === 0) return null
  const source = `advertised by the device; calibrated on ${requests.fitted} finished requests`
  const devices: Record<string, unknown> = {}
  const links: Record<string, unknown> = {}
  const presets: Record<string, { name: string; source: string; devices: Record<string, unknown> }> = {}
  for (const { device, own } of fits) {
    const { deviceId, link } = device
    const used = device.models.flatMap((model) => {
      const of = own.filter(
        ({ modelDigest, profile }) => modelDigest === model.digest && profile === model.profile,
      )
      return of.length > 0 ? [{ model, of }] : []
    })
    const raised = (role: Role) =>
      Math.max(1, ...own.filter((one) => one.role === role).map((one) => one.efficiency))
    devices[deviceId] = deviceEntry(
      device,
      used.map(({ model }) => model),
      raised,
      source,
    )
    const rates = fit.rates.filter(({ fromDeviceId, toDeviceId }) =>
      [fromDeviceId, toDeviceId].includes(deviceId),
    )
    const rate = Math.max(link.bytesPerSecond, ...rates.map(({ bytesPerSecond }) => bytesPerSecond), 1)
    const reached = rates.length > 0 ? Math.max(...rates.map(({ bytesPerSecond }) => bytesPerSecond)) : rate
    links[`${deviceId}-link`] = {
      name: `Link of ${deviceId}`,
      source,
      bytesPerSecond: Math.round(reached),
      rawBytesPerSecond: Math.round(rate),
      latencyUs: link.latencyMs * 1e3,
    }
    for (const { model, of } of used) {
      const id = presetId(model)
      presets[id] ??= { name: `${model.name} (${model.profile}) as calibrated`, source, devices: {} }
      presets[id].devices[deviceId] = useEntry(device, model, of, raised)
    }
  }
  const head = `# Written by kvasir calibrate: ${requests.fitted} requests fitted, ${requests.heldOut} held out. Give it to a study with --catalogue.\n`
  return head + stringify({ devices, links, presets })
}

function deviceEntry(
  device: DeviceFacts,
  models: readonly ModelFacts[],
  raised: (role: Role) => number,
  source: string,
) {
  const compute: Record<string, number> = {}
  for (const model of models) {
    const { precision, opsPerSecond } = fastest(device, model)
    compute[precision] = Math.round(Math.max(compute[precision] ?? 0, opsPerSecond * raised('prefill')))
  }
  const memories = device.tiers.map(({ name, capacityBytes, bytesPerSecond }) => {
    const memory = {
      bytes: Math.round(capacityBytes),
      bytesPerSecond: Math.round(bytesPerSecond * raised('decode')),
    }
    return [name, memory]
  })
  return {
    name: device.deviceId,
    kind: device.capabilities[0] === 'decode' ? 'fpga' : 'gpu',
    source,
    compute,
    memories: Object.fromEntries(memories),
    link: `${device.deviceId}-link`,
  }
}

function useEntry(
  device: DeviceFacts,
  model: ModelFacts,
  of: readonly FittedEfficiency[],
  raised: (role: Role) => number,
) {
  const guess = new CostModel()
  const sources: Record<string, string> = {}
  const share = (role: Role, field: string) => {
    const one = of.find((efficiency) => efficiency.role === role)
    if (one === undefined) sources[field] = 'not measured: what the cost model guesses'
    return Number(((one?.efficiency ?? guess.efficiency(device, model, role)) / raised(role)).toPrecision(6))
  }
  return {
    computePrecision: fastest(device, model).precision,
    prefillCompute: share('prefill', 'prefillCompute'),
    decodeBandwidth: share('decode', 'decodeBandwidth'),
    weightBits: Number(((model.weightBytes * 8) / model.parameters).toPrecision(6)),
    kvBits: Number(((model.poolBytesPerToken * 8) / (2 * keyWidth(model))).toPrecision(6)),
    decodesAtOnce: Math.max(1, device.decodeSlots),
    fusesSteps: true,
    ...(Object.keys(sources).length > 0 ? { sources } : {}),
  }
}

/** The precision and rate that the cost model takes for prompts. */
function fastest(device: DeviceFacts, model: ModelFacts): { precision: PrecisionId; opsPerSecond: number } {
  const opsPerSecond = prefillOpsPerSecond(device, model)
  const rates = model.compute.length > 0 ? model.compute : device.compute
  const found = rates.find((rate) => rate.opsPerSecond === opsPerSecond)
  return { precision: PRECISIONS[found?.precision ?? 'f32'], opsPerSecond }
}

function presetId({ name, profile }: ModelFacts): string {
  return `calibrated-${name.toLowerCase().replaceAll(/[^a-z0-9.]+/g, '-')}-${profile}`
}
