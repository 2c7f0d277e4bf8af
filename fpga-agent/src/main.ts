/** The agent process of an FPGA. */
import { runAgentProcess } from '@kvasir/agent/agent-process'
import { fpgaDefinition } from './definition.js'

runAgentProcess(fpgaDefinition)
