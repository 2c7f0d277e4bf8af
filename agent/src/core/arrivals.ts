/** Sequences in one phase, in order of arrival, which their numbers tell. */
export class Arrivals<Arrival extends { readonly id: number }> {
  private readonly list: Arrival[] = []

  /** Oldest first. To be read before the next change. */
  get all(): readonly Arrival[] {
    return this.list
  }

  get size(): number {
    return this.list.length
  }

  add(arrival: Arrival): void {
    this.list.splice(this.placeOf(arrival.id), 0, arrival)
  }

  /** Nothing happens where it is not among them. */
  remove({ id }: Arrival): void {
    const place = this.placeOf(id)
    if (this.list[place]?.id === id) this.list.splice(place, 1)
  }

  private placeOf(id: number): number {
    let [low, high] = [0, this.list.length]
    if ((this.list[high - 1]?.id ?? id) < id) return high
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.list[middle]?.id ?? 0) < id) low = middle + 1
      else high = middle
    }
    return low
  }
}
