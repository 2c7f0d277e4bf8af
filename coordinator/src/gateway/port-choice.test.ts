import type { AddressInfo } from 'node:net'
import { describe, expect, test } from 'vitest'
import { listenOnPort } from './port-choice.js'

/** A `listen` for which these ports are taken. */
function listenWhere(taken: (port: number) => boolean, code = 'EADDRINUSE') {
  return async (port: number): Promise<AddressInfo> => {
    if (taken(port)) throw Object.assign(new Error(`listen ${code}`), { code })
    return { address: '127.0.0.1', family: 'IPv4', port: port === 0 ? 40_000 : port }
  }
}

const host = '127.0.0.1'

describe('listenOnPort', () => {
  test('a port asked for by name', async () => {
    expect(
      await listenOnPort(
        { host, port: 9000 },
        listenWhere(() => false),
      ),
    ).toEqual({ port: 9000, note: undefined })
    expect(
      (
        await listenOnPort(
          { host, port: 0 },
          listenWhere(() => false),
        )
      ).port,
    ).toBe(40_000)
  })

  test('one that is taken is an error in one sentence', async () => {
    await expect(
      listenOnPort(
        { host, port: 9000 },
        listenWhere(() => true),
      ),
    ).rejects.toThrow('Port 9000 on 127.0.0.1 is taken.')
    await expect(
      listenOnPort(
        { host, port: 80 },
        listenWhere(() => true, 'EACCES'),
      ),
    ).rejects.toThrow('may not listen on port 80')
  })

  test('a preferred one gives way to the next free one, and says so', async () => {
    expect(
      await listenOnPort(
        { host, portPreferred: 9000 },
        listenWhere((port) => port < 9002),
      ),
    ).toEqual({
      port: 9002,
      note: 'Port 9000 is taken, so this is port 9002.',
    })
    expect(
      await listenOnPort(
        { host },
        listenWhere(() => false),
      ),
    ).toEqual({ port: 8080, note: undefined })
  })

  test('no free one in reach is an error, and so is an address that is not ours', async () => {
    await expect(
      listenOnPort(
        { host },
        listenWhere(() => true),
      ),
    ).rejects.toThrow('No port from 8080 to 8179 is free')
    await expect(
      listenOnPort(
        { host },
        listenWhere(() => true, 'EADDRNOTAVAIL'),
      ),
    ).rejects.toThrow('Check --host')
  })
})
