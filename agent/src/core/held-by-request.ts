/**
 * What each request has on the device: its sequences in order of arrival, its leases in the order in which they were
 * issued; so that a placement need not look at everybody's.
 */

export class HeldByRequest<Item extends { readonly requestId: string }> {
  private readonly items = new Map<string, Item[]>()

  /** A copy. */
  of(requestId: string): Item[] {
    return [...(this.items.get(requestId) ?? [])]
  }

  add(item: Item): void {
    const known = this.items.get(item.requestId)
    if (known === undefined) this.items.set(item.requestId, [item])
    else known.push(item)
  }

  remove(item: Item): void {
    const known = this.items.get(item.requestId)
    if (known === undefined) return
    const place = known.indexOf(item)
    if (place >= 0) known.splice(place, 1)
    if (known.length === 0) this.items.delete(item.requestId)
  }
}
