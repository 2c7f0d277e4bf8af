/** What a cluster costs: its price, and what an hour of it comes to with the power it draws. */
import type { ClusterPlan } from '../cluster/cluster-plan.js'

export interface MoneyRates {
  /** Over which the price is spread evenly. */
  readonly years: number
  readonly kwhDollars: number
}

const YEAR_HOURS = 8_766
const KWH_J = 3.6e6

/** Prices of devices and hosts; NaN where the catalogue lacks one. */
export function dollarsOf(plan: ClusterPlan): number {
  return plan.machines.reduce(
    (sum, { devices, hostDollars }) =>
      devices.reduce((all, { model }) => all + (model.device.dollars ?? Number.NaN), sum + hostDollars),
    0,
  )
}

export function dollarsPerHour(
  {
    dollars,
    energyJ,
    virtualMs,
  }: { readonly dollars: number; readonly energyJ: number; readonly virtualMs: number },
  { years, kwhDollars }: MoneyRates,
): number {
  const hours = virtualMs / 3.6e6
  return dollars / (years * YEAR_HOURS) + ((energyJ / KWH_J) * kwhDollars) / hours
}
