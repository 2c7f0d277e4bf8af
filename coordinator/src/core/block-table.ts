/**
 * Numbers of blocks by hash: an open-addressing table with linear probing over typed arrays, since a map of a
 * million strings takes four times the memory and a cache miss more for each look-up.
 *
 * T1. A block's number (slot) stays while it is known; freed ones are used again, the last freed first.
 * T2. At most half of the positions are taken, so that a search ends after a few steps. Hashes are evenly
 *     spread, so their first word tells the position.
 */
import { type BlockHashes, HASH_WORDS } from './block-hashes.js'

const SLOTS_MIN = 1_024
const FREE = -1

export class BlockTable {
  /** Slot + 1 by position; 0 where nothing is. */
  #positions = new Int32Array(2 * SLOTS_MIN)
  #hashes = new Uint32Array(SLOTS_MIN * HASH_WORDS)
  /** Slot + 1 of the block that was last seen to follow, a guess of which the hash is checked; FREE of a freed slot. */
  #next = new Int32Array(SLOTS_MIN)
  readonly #free: number[] = []
  #slots = 0

  /** Blocks known. */
  get size(): number {
    return this.#slots - this.#free.length
  }

  /** One above the highest slot in use so far. */
  get slots(): number {
    return this.#slots
  }

  /** Slot of the hash that begins at word `at`; −1 where it is not known. */
  find(hashes: BlockHashes, at: number): number {
    const positions = this.#positions
    const mask = positions.length - 1
    for (let position = (hashes[at] ?? 0) & mask; ; position = (position + 1) & mask) {
      const slot = (positions[position] ?? 0) - 1
      if (slot < 0 || this.#isAt(slot, hashes, at)) return slot
    }
  }

  /** As `find`, for the hash that follows that of slot `before`, which may be −1: prompts share their beginnings. */
  findAfter(before: number, hashes: BlockHashes, at: number): number {
    if (before < 0) return this.find(hashes, at)
    const guess = (this.#next[before] ?? 0) - 1
    if (guess >= 0 && this.#next[guess] !== FREE && this.#isAt(guess, hashes, at)) return guess
    const slot = this.find(hashes, at)
    this.follows(before, slot)
    return slot
  }

  /** One block follows another one in a prompt; either may be −1. */
  follows(before: number, slot: number): void {
    if (before >= 0 && slot >= 0 && this.#next[before] !== FREE) this.#next[before] = slot + 1
  }

  /** The slot of a hash that is not known yet. */
  add(hashes: BlockHashes, at: number): number {
    const slot = this.#free.pop() ?? this.#slots
    if (slot === this.#slots) this.#slots += 1
    if (slot * HASH_WORDS >= this.#hashes.length) this.#grow()
    for (let word = 0; word < HASH_WORDS; word += 1) {
      this.#hashes[slot * HASH_WORDS + word] = hashes[at + word] ?? 0
    }
    this.#next[slot] = 0
    this.#put(slot)
    return slot
  }

  remove(slot: number): void {
    const positions = this.#positions
    const mask = positions.length - 1
    let hole = this.#home(slot)
    while (positions[hole] !== slot + 1) hole = (hole + 1) & mask
    // What was pushed behind by others moves up, so that no search meets a gap.
    for (let position = (hole + 1) & mask; ; position = (position + 1) & mask) {
      const moved = (positions[position] ?? 0) - 1
      if (moved < 0) break
      const distance = (position - this.#home(moved)) & mask
      if (distance < ((position - hole) & mask)) continue
      positions[hole] = moved + 1
      hole = position
    }
    positions[hole] = 0
    this.#next[slot] = FREE
    this.#free.push(slot)
  }

  #isAt(slot: number, hashes: BlockHashes, at: number): boolean {
    const own = this.#hashes
    const first = slot * HASH_WORDS
    return (
      own[first] === hashes[at] &&
      own[first + 1] === hashes[at + 1] &&
      own[first + 2] === hashes[at + 2] &&
      own[first + 3] === hashes[at + 3]
    )
  }

  #home(slot: number): number {
    return (this.#hashes[slot * HASH_WORDS] ?? 0) & (this.#positions.length - 1)
  }

  #put(slot: number): void {
    const mask = this.#positions.length - 1
    let position = this.#home(slot)
    while (this.#positions[position] !== 0) position = (position + 1) & mask
    this.#positions[position] = slot + 1
  }

  #grow(): void {
    const before = this.#hashes.length / HASH_WORDS
    const hashes = new Uint32Array(2 * before * HASH_WORDS)
    hashes.set(this.#hashes)
    this.#hashes = hashes
    const next = new Int32Array(2 * before)
    next.set(this.#next)
    this.#next = next
    this.#positions = new Int32Array(4 * before)
    // It grows only when no slot is free: all of them are in use.
    for (let slot = 0; slot < before; slot += 1) this.#put(slot)
  }
}
