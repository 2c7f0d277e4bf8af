/**
 * What finished requests teach, and the copies of it that placement reads of all devices at once.
 */
import { observeAttention } from './attention-stages.js'
import type { ClusterView, DeviceView } from './cluster-view.js'
import type { CompletionRecord } from './completion-record.js'
import type { CostModel } from './cost-model.js'
import type { StageCosts } from './stage-costs.js'

export interface Learners {
  readonly view: ClusterView
  readonly costs: CostModel
  readonly stageCosts: StageCosts
}

export function learnFrom(record: CompletionRecord, { view, costs, stageCosts }: Learners): void {
  const facts = (deviceId: string) => view.device(deviceId)?.facts
  costs.observe(record, facts)
  observeAttention(record, facts, stageCosts)
  for (const part of [record.prefill, record.decode]) {
    const device = part && view.device(part.deviceId)
    if (device) tellEfficiencies(device, costs)
  }
}

/** Of every model on the device; also to be called when it advertises itself. */
export function tellEfficiencies({ facts, models }: DeviceView, costs: CostModel): void {
  for (const model of models) {
    model.learned(
      costs.ownEfficiency(facts, model.facts, 'prefill'),
      costs.ownEfficiency(facts, model.facts, 'decode'),
    )
  }
}
