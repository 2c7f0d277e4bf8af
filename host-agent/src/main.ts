/** The agent process of a machine. */
import { runAgentProcess } from '@kvasir/agent/agent-process'
import { hostDefinition } from './definition.js'
import { takeInventory } from './inventory/inventory.js'

runAgentProcess(hostDefinition(takeInventory()))
