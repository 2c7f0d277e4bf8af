/**
 * One clear sentence on why a request's decoding attends as it does.
 */
import { type AttentionWay, type ChosenAttention, DEFAULT_BUDGET_TOKENS } from './attention-choice.js'
import { type AttentionBudget, budgetText } from './attention-plan.js'
import type { AttentionMethodName } from './attention-wish.js'

const ATTENDS = { partial: 'attends to the prompt', indices: 'chooses the pages' } as const

/** `self`: the device that decodes. */
export function attentionReason(chosen: ChosenAttention<AttentionWay>, self: string): string {
  const place = placeReason(chosen, self)
  return `${methodReason(chosen, self)}${place === '' ? '' : `; ${place}`}.`
}

function methodReason(chosen: ChosenAttention<AttentionWay>, self: string): string {
  const { method, budget, whyMethod, way, otherMethodMs } = chosen
  const attention = `Attention is ${methodText(method, budget)}`
  switch (whyMethod) {
    case 'window':
      return `${attention}, as the model has a sliding window`
    case 'settled':
      return `${attention}, as when the request began`
    case 'asked':
      return `${attention}, as asked`
    case 'place':
      return 'Attention is by page bounds, which the place that was asked for needs'
    case 'short':
      return `${attention}, as for all of up to ${budgetText({ tokens: DEFAULT_BUDGET_TOKENS })}`
    case 'set':
      return `${attention}, as this coordinator is set`
    case 'only':
      return `${attention}, the only one that ${self} knows`
    case 'times': {
      const isDense = method === 'dense'
      const [boundsMs, denseMs] = isDense ? [otherMethodMs, way.stepMs] : [way.stepMs, otherMethodMs]
      const times = `${msText(boundsMs)} a step is predicted for page bounds and ${msText(denseMs)} for dense`
      return isDense ? `${attention}, although long: ${times}` : `${attention}: ${times}`
    }
  }
}

function placeReason({ way, rival, whyPlace }: ChosenAttention<AttentionWay>, self: string): string {
  const { attend, place } = way
  const attends =
    attend === null || place === 'local' ? `${self} attends` : `${attend.deviceId} ${ATTENDS[place]}`
  switch (whyPlace) {
    case 'only':
      return ''
    case 'asked':
      return `${attends}, as asked`
    case 'nobody':
      return `${attends}, since no other device is left that could`
    case 'no-page':
      return `${attends}, since the prompt fills no page`
    case 'times': {
      const other = rival?.attend ? `with ${rival.attend.deviceId}` : `on ${self} alone`
      const times = `${msText(way.stepMs)}, and ${msText(rival?.stepMs ?? 0)} ${other}`
      return `${attends}: a step is predicted to take ${times}`
    }
  }
}

function methodText(method: AttentionMethodName, budget: AttentionBudget | null): string {
  const name = method === 'page-bounds' ? 'by page bounds' : method
  return budget ? `${name} with a budget of ${budgetText(budget)}` : name
}

function msText(ms: number): string {
  return `${Number(ms.toPrecision(3))} ms`
}
