/**
 * The emulated FPGA behind a relay that does one thing wrong, once: `--armed FILE --socket PATH`.
 *
 * FILE names the fault. It happens at the first step (load-…: the first load) that comes while the file is there,
 * and takes the file away, so that whoever is started after it is sound. The relay names short times, so that a
 * test need not wait long for what every driver's agent waits for.
 */
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { parseArgs } from 'node:util'
import { startDriverServer } from '@kvasir/engine/driver-process/driver-server'
import { FrameReader, writeFrame } from '@kvasir/engine/driver-process/frames'
import { createOrtDriver } from '@kvasir/engine/ort-driver'
import { DriverReply, DriverRequest } from '@kvasir/proto/kvasir/driver/v1/driver'
import { watchParent } from '@kvasir/runtime/parent'

const { values } = parseArgs({
  options: { armed: { type: 'string' }, socket: { type: 'string' } },
})
const { armed, socket: path } = values
const SILENCE_MS_MAX = 1_500
const PROGRESS_MS_MAX = 2_500

/** What the faulty reply to a step looks like; undefined: none comes. */
const FAULTY_REPLIES = {
  'hang-step': () => undefined,
  'wrong-size': (agent, reply, payload) => send(agent, reply, payload.slice(4)),
  'unknown-id': (agent, reply, payload) => send(agent, { ...reply, id: reply.id + 1_000_000n }, payload),
  duplicate(agent, reply, payload) {
    send(agent, reply, payload)
    send(agent, reply, payload)
  },
  nan: (agent, reply, payload) =>
    send(agent, reply, new Uint8Array(new Float32Array(payload.length / 4).fill(Number.NaN).buffer)),
  overloaded: (agent, { id }) =>
    send(agent, {
      id,
      reply: {
        $case: 'failure',
        value: { code: 'overloaded', message: 'The device has no memory left for the step.', param: '' },
      },
    }),
  'half-frame'(agent) {
    agent.write(Uint8Array.of(200, 0, 0, 0, 0, 0, 1, 0, 8, 7), () => process.exit(3))
  },
  lengths: (agent) => agent.write(new Uint8Array(4_096).fill(255)),
  undecodable: (agent) => agent.write(Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255)),
}

function send(agent, reply, payload = new Uint8Array(0)) {
  writeFrame(agent, DriverReply.encode(reply).finish(), [payload])
}

/** The fault that happens at this request, if any. */
function faultAt({ $case }) {
  if (!existsSync(armed)) return undefined
  const fault = readFileSync(armed, 'utf8')
  if ($case !== (fault.startsWith('load-') ? 'load' : 'step')) return undefined
  rmSync(armed)
  return fault
}

const inner = `${path}.inner`
await startDriverServer(createOrtDriver({ threads: 1 }), { socketPath: inner })
watchParent(() => process.exit(1))

createServer((agent) => {
  const driver = connect(inner)
  for (const socket of [agent, driver]) socket.on('error', () => {})
  agent.on('close', () => driver.destroy())
  driver.on('close', () => agent.destroy())
  let isSilent = false
  let faulty

  const fromAgent = new FrameReader((message, payload) => {
    const { id, request } = DriverRequest.decode(message)
    const fault = faultAt(request)
    if (fault !== undefined) begin(fault, id)
    // A call that the relay answers by itself goes no further.
    const isAnswered = faulty?.id === id && !(faulty.fault in FAULTY_REPLIES)
    if (!isSilent && !isAnswered) writeFrame(driver, message, [payload])
  })
  const fromDriver = new FrameReader((message, payload) => {
    if (isSilent) return
    const reply = DriverReply.decode(message)
    if (reply.reply.$case === 'hello') {
      const value = { ...reply.reply.value, silenceMsMax: SILENCE_MS_MAX, progressMsMax: PROGRESS_MS_MAX }
      send(agent, { ...reply, reply: { $case: 'hello', value } })
      setInterval(() => {
        if (!isSilent) send(agent, { id: 0n, reply: { $case: 'alive', value: {} } })
      }, SILENCE_MS_MAX / 4)
    } else if (reply.id === faulty?.id && reply.reply.$case === 'step') {
      FAULTY_REPLIES[faulty.fault](agent, reply, payload)
    } else {
      writeFrame(agent, message, [payload])
    }
  })
  agent.on('data', (bytes) => fromAgent.push(bytes))
  driver.on('data', (bytes) => fromDriver.push(bytes))

  function begin(fault, id) {
    switch (fault) {
      case 'exit':
        process.exit(3)
        break
      case 'kill':
        process.kill(process.pid, 'SIGKILL')
        break
      case 'stop':
        // As one that hangs as a whole: not even its socket is served.
        process.kill(process.pid, 'SIGSTOP')
        break
      case 'silent':
      case 'load-silent':
        isSilent = true
        break
      case 'load-overloaded':
        faulty = { fault, id }
        send(agent, {
          id,
          reply: {
            $case: 'failure',
            value: { code: 'overloaded', message: 'The device lacks 4 GB for this model.', param: '' },
          },
        })
        break
      default:
        faulty = { fault, id }
    }
  }
}).listen(path)
