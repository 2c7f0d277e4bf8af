/** The wire against another implementation, Node's own, and against peers that break the protocol. */
import { connect as connectHttp2, createServer as createHttp2Server, type Http2Server } from 'node:http2'
import { connect, createServer, type Server, type Socket } from 'node:net'
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { type Deferred, deferred, withDeadline } from '../deferred.js'
import { Http2Connection } from './connection.js'
import { FLAG, FRAME, frame, frameHead, PREFACE, settingsFrame } from './frames.js'
import { encodeHeaders, HeaderDecoder } from './hpack.js'
import type { Header } from './hpack-tables.js'
import type { Http2Stream } from './stream.js'

const OPTIONS = { windowBytes: 1 << 20, streamsMax: 10, pingMs: 500, pongMs: 1_500 } as const
const cleanups: (() => unknown)[] = []

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

function listening(server: Server | Http2Server): Promise<number> {
  cleanups.push(() => server.close())
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      resolve(typeof address === 'object' && address !== null ? address.port : 0)
    })
  })
}

interface Ended {
  readonly headers: (readonly Header[])[]
  readonly data: Buffer
}

/** Everything that comes on a stream. */
function collected(stream: Http2Stream, consume = true): Deferred<Ended> {
  const all = deferred<Ended>()
  const headers: (readonly Header[])[] = []
  const parts: Buffer[] = []
  stream.listener = {
    headers: (block) => headers.push(block),
    data: (bytes) => {
      parts.push(Buffer.from(bytes))
      if (consume) stream.consumed(bytes.length)
    },
    ended: () => all.resolve({ headers, data: Buffer.concat(parts) }),
    lost: (reason) => all.reject('lost' in reason ? reason.lost : new Error(`reset ${reason.code}`)),
  }
  return all
}

/** A server whose streams are handed to `serve`; resolves to its port. */
function ours(serve: (stream: Http2Stream, headers: readonly Header[]) => void): Promise<number> {
  return listening(
    createServer((socket) => {
      cleanups.push(() => socket.destroy())
      const connection = new Http2Connection(
        socket,
        { role: 'server', ...OPTIONS },
        { stream: serve, leaving() {}, closed() {} },
      )
      socket.on('data', (bytes) => connection.feed(bytes))
    }),
  )
}

const name = fc.stringMatching(/^[a-z][a-z0-9-]{0,20}$/).map((text) => `x-${text}`)
const value = fc.stringMatching(/^[!-~]([ -~]{0,200}[!-~])?$/)

describe('headers', () => {
  test('of Node are read, whatever its tables and its Huffman code make of them', async () => {
    const arrived: (readonly Header[])[] = []
    const port = await ours((stream, headers) => {
      collected(stream)
      arrived.push(headers)
      stream.sendHeaders([[':status', '200']])
      stream.end([['grpc-status', '0']])
    })
    const session = connectHttp2(`http://127.0.0.1:${port}`)
    cleanups.push(() => session.destroy())
    // On one connection, so that later requests use what earlier ones left in the table.
    await fc.assert(
      fc.asyncProperty(fc.dictionary(name, value, { maxKeys: 8 }), async (headers) => {
        const request = session.request({ ':path': '/x', ...headers })
        await new Promise((resolve) => request.on('close', resolve).resume())
        const seen = Object.fromEntries(arrived.at(-1) ?? [])
        expect(seen).toMatchObject({ ...headers, ':path': '/x' })
      }),
    )
  })

  test('are read as they were written', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(name, value)), (headers) => {
        expect(new HeaderDecoder().decode(encodeHeaders(headers))).toEqual(headers)
      }),
    )
  })

  test('of any bytes are read or refused', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        try {
          new HeaderDecoder().decode(Buffer.from(bytes))
        } catch (error) {
          expect(error).toMatchObject({ name: 'Error', code: expect.any(Number) })
        }
      }),
      { numRuns: 2_000 },
    )
  })
})

describe('data', () => {
  const bytes = Buffer.from(Uint8Array.from({ length: 5_000_000 }, (_, i) => (i * 31) >> 3))

  test('comes whole from Node, and goes whole to it, through windows that are smaller', async () => {
    const server = createHttp2Server({ settings: { initialWindowSize: 70_000, maxFrameSize: 20_000 } })
    server.on('stream', (stream) => {
      stream.respond({ ':status': 200 })
      stream.pipe(stream)
    })
    const port = await listening(server)
    const socket = connect(port, '127.0.0.1')
    const connection = new Http2Connection(
      socket,
      { role: 'client', ...OPTIONS, windowBytes: 100_000 },
      { leaving() {}, closed() {} },
    )
    cleanups.push(() => connection.destroy(new Error('over')))
    socket.on('data', (part) => connection.feed(part))
    const stream = connection.request([
      [':method', 'POST'],
      [':scheme', 'http'],
      [':authority', 'test'],
      [':path', '/'],
    ])
    const echoed = collected(stream)
    const sent = deferred<void>()
    stream.send([bytes.subarray(0, 7), bytes.subarray(7, 3_000_001), bytes.subarray(3_000_001)], sent.resolve)
    stream.end()
    const { data } = await withDeadline(echoed.promise, 20_000, 'the echo')
    expect(data.equals(bytes)).toBe(true)
    await sent.promise
  })

  test('that is padded loses its padding, and nothing of its window', async () => {
    const whole = deferred<Ended>()
    const port = await ours((stream) => void collected(stream).promise.then(whole.resolve))
    const socket = connect(port, '127.0.0.1')
    cleanups.push(() => socket.destroy())
    socket.write(Buffer.concat([PREFACE, settingsFrame([])]))
    const block = encodeHeaders([
      [':method', 'POST'],
      [':path', '/'],
    ])
    socket.write(frame(FRAME.headers, FLAG.endHeaders, 1, block))
    // More than the window in all, if padding were never given back.
    const padded = Buffer.concat([Buffer.of(200), Buffer.from('ab'), Buffer.alloc(200)])
    for (let i = 0; i < 7_000; i += 1) socket.write(frame(FRAME.data, FLAG.padded, 1, padded))
    socket.write(frameHead(0, FRAME.data, FLAG.endStream, 1))
    const { data } = await withDeadline(whole.promise, 20_000, 'the padded data')
    expect(data.toString()).toBe('ab'.repeat(7_000))
  })
})

describe('a peer that breaks the protocol loses its connection', () => {
  const closes = async (bytes: Buffer): Promise<void> => {
    const port = await ours((stream) => void collected(stream, false))
    const socket: Socket = connect(port, '127.0.0.1')
    cleanups.push(() => socket.destroy())
    socket.on('error', () => {})
    const closed = new Promise((resolve) => socket.resume().on('close', resolve))
    socket.write(bytes)
    await withDeadline(closed, 5_000, 'the end of the connection')
  }
  const open = Buffer.concat([PREFACE, settingsFrame([])])
  const headers = frame(FRAME.headers, FLAG.endHeaders, 1, encodeHeaders([[':path', '/']]))

  test.each([
    ['another protocol', Buffer.from('GET / HTTP/1.1\r\nhost: x\r\n\r\n')],
    ['data without a stream', Buffer.concat([open, frame(FRAME.data, 0, 1, Buffer.alloc(3))])],
    ['a frame that is too large', Buffer.concat([open, frameHead((4 << 20) + 1, FRAME.data, 0, 1)])],
    [
      'a header block that is cut off',
      Buffer.concat([open, frame(FRAME.headers, 0, 1, Buffer.of(0)), headers]),
    ],
    ['headers that are no headers', Buffer.concat([open, frame(FRAME.headers, 4, 1, Buffer.of(0xff, 0xff))])],
    [
      'a window that opens by nothing',
      Buffer.concat([open, frame(FRAME.windowUpdate, 0, 0, Buffer.alloc(4))]),
    ],
    [
      'more data than the window',
      Buffer.concat([open, headers, frame(FRAME.data, 0, 1, Buffer.alloc((1 << 20) + 1))]),
    ],
  ])('%s', async (_what, bytes) => {
    await closes(bytes)
  })

  test('any bytes end the connection or are ignored, and nothing else', async () => {
    const port = await ours((stream) => void collected(stream))
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 300 }), async (bytes) => {
        const socket = connect(port, '127.0.0.1')
        socket.on('error', () => {})
        const closed = new Promise((resolve) => socket.resume().on('close', resolve))
        socket.end(Buffer.concat([open, bytes]))
        await withDeadline(closed, 5_000, 'the end of the connection')
      }),
      { numRuns: 50 },
    )
  })
})
