/** How the emulated FPGA is started as a process of its own. */
import path from 'node:path'
import { projectRoot } from '@kvasir/runtime/state-folder'

/** For a shell; KV passes through it as it does through agents, whose heap begins as large (local-cluster.ts). */
export function emulatedDriverCommand(): string {
  const script = path.join(projectRoot(), 'fpga-agent', 'dist', 'emulated-driver.js')
  return `"${process.execPath}" --initial-heap-size=256 "${script}"`
}
