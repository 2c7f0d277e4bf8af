/**
 * The rate at which each device was seen to send to each other one. Placement asks for some hundred of them for a request,
 * of a thousand devices that all have sent to one another: they lie side by side by the devices' numbers, since one look
 * into a map for every pair takes longer than all that is computed with the answer.
 *
 * R1. What is kept is bounded by the devices known: `forget` drops what was seen of one, and its number is used again.
 */

const LENGTH_MIN = 64

export class LinkRates {
  readonly #numbers = new Map<string, number>()
  readonly #free: number[] = []
  /** By the number of the device that sends, then of the one that receives; bytes a second, 0 where none was seen. */
  readonly #rates: (Float64Array | undefined)[] = []

  /** Bytes a second; undefined before the first transfer. */
  seen(fromDeviceId: string, toDeviceId: string): number | undefined {
    const from = this.#numbers.get(fromDeviceId)
    const to = this.#numbers.get(toDeviceId)
    if (from === undefined || to === undefined) return undefined
    const rate = this.#rates[from]?.[to] ?? 0
    return rate > 0 ? rate : undefined
  }

  /** `bytesPerSecond`: above 0. */
  set(fromDeviceId: string, toDeviceId: string, bytesPerSecond: number): void {
    const from = this.#numberOf(fromDeviceId)
    const to = this.#numberOf(toDeviceId)
    let rates = this.#rates[from]
    if (!rates || to >= rates.length) {
      const longer = new Float64Array(Math.max(LENGTH_MIN, 2 * to))
      if (rates) longer.set(rates)
      rates = longer
      this.#rates[from] = rates
    }
    rates[to] = bytesPerSecond
  }

  /** The device left. */
  forget(deviceId: string): void {
    const number = this.#numbers.get(deviceId)
    if (number === undefined) return
    this.#numbers.delete(deviceId)
    this.#free.push(number)
    this.#rates[number] = undefined
    for (const rates of this.#rates) if (rates && number < rates.length) rates[number] = 0
  }

  #numberOf(deviceId: string): number {
    const known = this.#numbers.get(deviceId)
    if (known !== undefined) return known
    // Numbers in use and free ones are all below their count.
    const number = this.#free.pop() ?? this.#numbers.size
    this.#numbers.set(deviceId, number)
    return number
  }
}
