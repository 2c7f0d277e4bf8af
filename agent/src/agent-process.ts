/**
 * The process around an agent: settings, log, signals, the ready line. An agent package
 * calls `runAgentProcess` with its definition and is done.
 */
import { loadProcessConfig } from '@kvasir/runtime/config'
import { announceReady, runProcess } from '@kvasir/runtime/lifecycle'
import { createLogger } from '@kvasir/runtime/log'
import { startAgent } from './agent.js'
import type { DeviceDefinition } from './definition.js'
import { agentSettings } from './settings.js'

/** Runs until a signal, a drain request or the parent's end. */
export function runAgentProcess(definition: DeviceDefinition): void {
  runProcess({
    name: `${definition.kind}-agent`,
    async start(context) {
      const settings = loadProcessConfig(agentSettings)
      const { deviceId, logFile } = settings
      const log = createLogger({
        service: deviceId,
        terminal: logFile === undefined,
        ...(logFile === undefined ? {} : { file: logFile }),
      })
      // On a terminal a start that fails says one sentence, which is not the log's.
      if (logFile !== undefined) context.log = log
      const agent = await startAgent(definition, settings, {
        log,
        onDrainRequest: () => context.stop(),
        onBroken(error) {
          context.stop(error)
        },
      })
      context.log = log
      announceReady({ deviceId, control: agent.control, kv: agent.kv, pid: process.pid })
      return agent
    },
  })
}
