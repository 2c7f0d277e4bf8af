import type { TierKind } from '@kvasir/proto/kvasir/capability/v1/capability'

/** TIER_KIND_HOST_DRAM as host-dram. */
export function tierKindName(kind: TierKind | undefined): string {
  return (kind ?? '').replace('TIER_KIND_', '').toLowerCase().replaceAll('_', '-')
}
