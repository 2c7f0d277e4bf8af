/** The agent process of a GPU. */
import { runAgentProcess } from '@kvasir/agent/agent-process'
import { gpuDefinition } from './definition.js'

runAgentProcess(gpuDefinition)
