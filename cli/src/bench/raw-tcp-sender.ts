/** The other end of raw-tcp.ts: a process that sends zeros to whoever connects, until they hang up. */
import { createServer } from 'node:net'
import { announceReady } from '@kvasir/runtime/lifecycle'

const block = Buffer.alloc(1 << 20)

const server = createServer((socket) => {
  const fill = () => {
    while (!socket.destroyed && socket.write(block)) {
      // Until the socket's buffer is full; it says when it has drained.
    }
  }
  socket.on('drain', fill)
  socket.on('error', () => socket.destroy())
  fill()
})
server.listen(0, '127.0.0.1', () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') announceReady({ port: address.port })
})
