/** The measuring end of raw-tcp.ts, in a process that does nothing else: `PORT BYTES`. */
import { connect } from 'node:net'
import { announceReady } from '@kvasir/runtime/lifecycle'

/** Not measured: the socket's windows grow and code is compiled. */
const warmUpBytes = 64 << 20

const [port, bytes] = process.argv.slice(2).map(Number)
let read = 0
let begin = 0

const socket = connect(port ?? 0, '127.0.0.1')
socket.on('data', (data) => {
  read += data.length
  if (begin === 0 && read >= warmUpBytes) {
    begin = performance.now()
    read = 0
  } else if (begin > 0 && read >= (bytes ?? 0)) {
    socket.destroy()
    announceReady({ bytesPerSecond: read / ((performance.now() - begin) / 1000) })
  }
})
