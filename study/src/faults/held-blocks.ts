/**
 * Which blocks of a device are in use, by whom: leases, what still touches a lease that ended, loans to transfers. Checked
 * against what the core hands out.
 *
 * H1 A block in two hands is full, and has the same content in both: nothing is granted twice.
 * H2 Who writes to a block has it alone.
 */
import type { BlockContents } from './block-contents.js'
import type { RequestLedger } from './request-ledger.js'
import { Violation } from './violation.js'

export interface Holding {
  readonly requestId: string
  readonly epoch: number
  blocks: readonly number[]
  /** Transfers that touch it. */
  pins: number
}

export interface Loan {
  readonly blocks: readonly number[]
  readonly names: readonly string[]
}

export class HeldBlocks {
  readonly leases = new Map<bigint, Holding>()
  /** Leases that ended while something touched their blocks. */
  readonly ended = new Map<bigint, Holding>()
  readonly loans = new Map<number, Loan>()
  readonly #hands: Int32Array
  readonly #firstHolder: (Holding | undefined)[]
  readonly #firstPage: Int32Array
  #isOutdated = false

  constructor(
    readonly deviceId: string,
    readonly contents: BlockContents,
    readonly blockTokens: number,
    readonly ledger: RequestLedger,
  ) {
    this.#hands = new Int32Array(contents.capacityBlocks)
    this.#firstHolder = new Array<Holding | undefined>(contents.capacityBlocks).fill(undefined)
    this.#firstPage = new Int32Array(contents.capacityBlocks)
  }

  /** Under a lease, or touched after its end. */
  get usedBlocks(): number {
    let used = 0
    for (const holder of this.#firstHolder) if (holder !== undefined) used += 1
    return used
  }

  /** Under a lease, touched after its end, or lent. */
  isInUse(block: number): boolean {
    if (this.#isOutdated) this.recount()
    return (this.#hands[block] ?? 0) > 0
  }

  /** Something was given back. */
  changed(): void {
    this.#isOutdated = true
  }

  /** Blocks have other places now. */
  moved(places: ReadonlyMap<number, number>): void {
    for (const holding of this.leases.values()) {
      holding.blocks = holding.blocks.map((block) => places.get(block) ?? block)
    }
    this.#isOutdated = true
  }

  /** The only holding of the block is the writer's. */
  checkAlone(block: number, writer: Holding): void {
    if (this.#hands[block] === 1 && this.#firstHolder[block] === writer) return
    throw new Violation(
      'I1',
      `${this.deviceId} writes to block ${block} for ${writer.requestId}, which ${this.#others(block, writer)}.`,
      [this.deviceId, writer.requestId],
    )
  }

  /** Blocks that the core thinks cached for this holding must contain what their hashes name. */
  checkPrefix({ requestId, blocks }: Holding, tokens: number): void {
    for (let page = 0; page * this.blockTokens < tokens; page += 1) {
      this.checkPage(requestId, page, blocks[page] ?? -1, this.blockTokens)
    }
  }

  checkPage(requestId: string, page: number, block: number, tokens: number): void {
    const name = this.ledger.pageName(requestId, page)
    if (this.contents.holds(block, name, tokens)) return
    throw new Violation(
      'I6',
      `${this.deviceId} uses block ${block} as page ${page} of ${requestId} (${name}), but it holds ${this.contents.text(block)}.`,
      [this.deviceId, requestId],
    )
  }

  /** After holdings changed. */
  recount(): void {
    this.#isOutdated = false
    this.#hands.fill(0)
    this.#firstHolder.fill(undefined)
    for (const lease of this.leases.values()) this.#count(lease)
    for (const lease of this.ended.values()) this.#count(lease)
    for (const { blocks, names } of this.loans.values()) {
      for (const [index, block] of blocks.entries()) this.#countLent(block, names[index] ?? '')
    }
  }

  #count(holding: Holding): void {
    for (const [page, block] of holding.blocks.entries()) {
      if (block < 0 || block >= this.contents.capacityBlocks) {
        throw new Violation('I1', `${this.deviceId} grants block ${block}, which none of its memories has.`, [
          this.deviceId,
          holding.requestId,
        ])
      }
      const other = this.#firstHolder[block]
      this.#hands[block] = (this.#hands[block] ?? 0) + 1
      if (other === undefined) {
        this.#firstHolder[block] = holding
        this.#firstPage[block] = page
      } else this.#checkShared(block, holding, page, other)
    }
  }

  #checkShared(block: number, holding: Holding, page: number, other: Holding): void {
    const { ledger, blockTokens } = this
    const name = ledger.pageName(holding.requestId, page)
    const isSame =
      other !== holding &&
      ledger.isNamed(holding.requestId, page) &&
      name === ledger.pageName(other.requestId, this.#firstPage[block] ?? -1)
    if (isSame && this.contents.holds(block, name, blockTokens)) return
    const state = other.pins > 0 || holding.pins > 0 ? ', which a transfer or step still touches' : ''
    throw new Violation(
      'I1',
      `${this.deviceId} grants block ${block} to ${holding.requestId} and to ${other.requestId}${state}.`,
      [this.deviceId, holding.requestId, other.requestId],
    )
  }

  #countLent(block: number, name: string): void {
    this.#hands[block] = (this.#hands[block] ?? 0) + 1
    if (this.contents.holds(block, name, this.blockTokens)) return
    throw new Violation(
      'I6',
      `${this.deviceId} lends block ${block} as ${name}, but it holds ${this.contents.text(block)}.`,
      [this.deviceId],
    )
  }

  #others(block: number, writer: Holding): string {
    const holders = [...this.leases.values(), ...this.ended.values()].filter((other) => {
      return other !== writer && other.blocks.includes(block)
    })
    if (holders.length > 0) return `${holders.map(({ requestId }) => requestId).join(' and ')} holds too`
    return (this.#hands[block] ?? 0) > 0 ? 'is lent to another device' : 'is under no lease of it'
  }
}
