/**
 * Policies that a replay compares, by name; several are joined with +, such as `edf+no-assist`. What is not named is as it
 * serves by default: first come first served, the house rule, GPUs that help to decode, reuse of cached prefixes.
 */
import type { RequestLimits } from '@kvasir/coordinator/core/request-limits'
import { didYouMean } from '@kvasir/runtime/did-you-mean'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { ClusterPlan, PlannedDevice } from '../cluster/cluster-plan.js'

interface PolicyPart {
  readonly says: string
  readonly limits?: Partial<RequestLimits>
  readonly tierPolicy?: PlannedDevice['tierPolicy']
  readonly hasNoReuse?: boolean
  readonly hasNoHostTiers?: boolean
  /** Requests tell the SLO of their first token, by which they are ordered. */
  readonly tellsDeadline?: boolean
  readonly admits?: boolean
}

const PARTS: Readonly<Record<string, PolicyPart>> = {
  house: { says: 'as it serves by default' },
  edf: { says: 'the earliest deadline first', limits: { policy: { order: 'edf' } }, tellsDeadline: true },
  'least-slack': {
    says: 'the least slack first',
    limits: { policy: { order: 'least-slack' } },
    tellsDeadline: true,
  },
  value: { says: 'the most valuable first', limits: { policy: { order: 'value' } }, tellsDeadline: true },
  'earliest-finish': {
    says: 'the pair that is predicted to finish first',
    limits: { policy: { pick: 'earliest-finish' } },
  },
  'static-affinity': {
    says: 'devices keep to the role they prefer',
    limits: { policy: { pick: 'static-affinity' } },
  },
  'round-robin': { says: 'devices in turn', limits: { policy: { pick: 'round-robin' } } },
  'no-assist': {
    says: 'devices that prefer prefill never decode while others are there',
    limits: { policy: { decodeAssist: false } },
  },
  admission: {
    says: 'requests that are predicted to miss the TTFT of the SLO are refused early',
    tellsDeadline: true,
    admits: true,
  },
  'tiers-static': { says: 'pages stay in the memory they were written to', tierPolicy: 'static' },
  'tiers-reactive': { says: 'pages move to the nearest memory when read', tierPolicy: 'reactive' },
  'tiers-balanced': { says: 'reads are balanced between memories', tierPolicy: 'balanced' },
  'no-reuse': { says: 'no prompt shares cached blocks', hasNoReuse: true },
  'no-host-tier': { says: 'hosts keep no KV', hasNoHostTiers: true },
}

export const POLICY_NAMES: readonly string[] = Object.keys(PARTS)

export interface ReplayPolicy {
  readonly name: string
  readonly says: string
  readonly limits: Partial<RequestLimits>
  readonly hasReuse: boolean
  readonly tellsDeadline: boolean
  /** The plan as the policy has it. */
  planned(plan: ClusterPlan): ClusterPlan
}

/** `text`: such as house or edf+no-reuse. Throws InvalidInputError for a name that is not known. */
export function replayPolicy(text: string): ReplayPolicy {
  const parts = text.split('+').map(partOf)
  const policy = Object.assign({}, ...parts.map(({ limits }) => limits?.policy ?? {}))
  const tellsDeadline = parts.some((part) => part.tellsDeadline)
  const admits = parts.some((part) => part.admits)
  const tierPolicy = parts.findLast((part) => part.tierPolicy)?.tierPolicy
  const hasHostTiers = !parts.some((part) => part.hasNoHostTiers)
  return {
    name: text,
    says: parts.map(({ says }) => says).join('; '),
    limits: {
      attentionDefault: 'dense',
      policy,
      // A deadline that only orders refuses nobody.
      ...(tellsDeadline && !admits ? { admission: { isOn: false } } : {}),
    },
    hasReuse: !parts.some((part) => part.hasNoReuse),
    tellsDeadline,
    planned: (plan) => ({
      ...plan,
      machines: plan.machines.map((machine) => ({
        ...machine,
        hostTiers: hasHostTiers ? machine.hostTiers : [],
        devices: machine.devices.map((device) =>
          tierPolicy === undefined ? device : { ...device, tierPolicy },
        ),
      })),
    }),
  }
}

function partOf(name: string): PolicyPart {
  const part = Object.hasOwn(PARTS, name) ? PARTS[name] : undefined
  if (part) return part
  throw new InvalidInputError(
    `There is no policy ${JSON.stringify(name)}${didYouMean(name, POLICY_NAMES)}; there are ${POLICY_NAMES.join(', ')}, and several of them joined with +.`,
    { param: 'policy' },
  )
}
