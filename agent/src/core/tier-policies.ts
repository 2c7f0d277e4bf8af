/** The policies of tier-policy.ts by name. */
import type { TierPolicyName } from './core-options.js'
import type { TierPolicy } from './tier-policy.js'
import { balanced } from './tier-policy-balanced.js'
import { reactive } from './tier-policy-reactive.js'

export function tierPolicy(name: TierPolicyName): TierPolicy {
  switch (name) {
    case 'static':
      return () => []
    case 'reactive':
      return reactive
    case 'balanced':
      return balanced
  }
}
