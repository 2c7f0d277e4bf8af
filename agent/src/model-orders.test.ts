/** Orders that agents take from whoever is on NATS. */
import { InvalidInputError } from '@kvasir/runtime/errors'
import { expect, it } from 'vitest'
import { loadOrder, unloadOrder } from './model-orders.js'

const digest = 'ab'.repeat(32)

it('means profile exact where an order names none, and the setting where it names no bytes', () => {
  const order = { model: 'skald', digest: '', profile: 'PROFILE_UNSPECIFIED', kvBytes: 0n } as const
  expect(loadOrder(order)).toMatchObject({ profile: 'PROFILE_EXACT', kvBytes: undefined })
})

it('lets work end for a day at most, which a timer can wait for', () => {
  const order = { digest, profile: 'PROFILE_PAPER' } as const
  expect(unloadOrder({ ...order, deadlineMs: 30_000 }).deadlineMs).toBe(30_000)
  expect(unloadOrder({ ...order, deadlineMs: 0xffff_ffff }).deadlineMs).toBe(86_400_000)
})

it.each(['', 'AB'.repeat(32), `../${'a'.repeat(61)}`])('refuses %j as a digest', (wrong) => {
  const unload = { digest: wrong, profile: 'PROFILE_EXACT', deadlineMs: 0 } as const
  expect(() => unloadOrder(unload)).toThrow(InvalidInputError)
})
