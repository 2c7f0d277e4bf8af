/**
 * Settings of an agent process, the same for every kind of device: flags, environment
 * (KVASIR_…) or a YAML file.
 */
import { EXECUTION_PROVIDERS } from '@kvasir/engine/execution-provider'
import { z } from 'zod'
import { MERGE_LAYERS } from './merge-layers.js'

const port = z.int().min(0).max(65_535)

export const agentSettings = z.strictObject({
  nats: z.string().default('nats://127.0.0.1:4222').describe('URL of the NATS server'),
  deviceId: z
    .string()
    .regex(/^[A-Za-z0-9-]{1,64}$/, 'use 1 to 64 letters, digits or hyphens')
    .describe('Id of the device, unique in the cluster'),
  model: z
    .string()
    .min(1)
    .optional()
    .describe('First model: its folder, GGUF file, name, or dummy:NAME; without it the agent waits for one'),
  profile: z
    .enum(['exact', 'paper'])
    .default('exact')
    .describe('Numerics of the first model: exact is f32 everywhere, paper what the device is made for'),
  modelBytes: z
    .int()
    .positive()
    .optional()
    .describe('Bytes that models may take, weights and KV together; ¾ of the free memory by default'),
  modelCacheDir: z
    .string()
    .min(1)
    .optional()
    .describe('Folder of models that were fetched from other agents'),
  host: z.string().default('127.0.0.1').describe('Address to listen on'),
  controlPort: port.default(0).describe('Port of the control services; 0 takes a free one'),
  kvPort: port.default(0).describe('Port of the KV transfers; 0 takes a free one'),
  tierBytes: z
    .int()
    .positive('a tier of 0 bytes holds nothing; give it more')
    .default(256 << 20)
    .describe('Bytes of the nearest memory tier that may hold KV blocks, of each model'),
  ddrBytes: z
    .int()
    .nonnegative()
    .optional()
    .describe(
      'Bytes of the DDR tier of each model, for a device that has one: four times tierBytes by default; 0 for none',
    ),
  tierPolicy: z
    .enum(['static', 'reactive', 'balanced'])
    .default('balanced')
    .describe('Which pages of decoding sequences sit in which tier, for a device with two'),
  shardBytes: z
    .int()
    .positive()
    .default(256 << 20)
    .describe('Bytes that shards of corpora may take, for a device that searches them'),
  corpusDir: z.string().min(1).optional().describe('Folder of the corpora, for an agent that keeps them'),
  corpusBytes: z
    .int()
    .positive()
    .default(1 << 30)
    .describe('Bytes that all corpora may take, documents on disk and postings in memory together'),
  driver: z
    .string()
    .regex(/^(unix|exec):\S/, 'give unix:PATH or exec:COMMAND')
    .optional()
    .describe('Driver that is a process: unix:PATH of its socket, or exec:COMMAND to start it'),
  decodeSlots: z.int().positive().max(1_024).optional().describe('Sequences decoded at once, of each model'),
  threads: z.int().positive().optional().describe('Threads that compute'),
  provider: z
    .enum(EXECUTION_PROVIDERS)
    .default('cpu')
    .describe('What computes products with weights: the processor, or a GPU through webgpu or cuda'),
  linkBytesPerSecond: z
    .number()
    .nonnegative()
    .default(0)
    .describe('Rate of a modelled link to which KV and model files are held; 0 does not hold them'),
  paceAs: z
    .string()
    .min(1)
    .optional()
    .describe('Device of the catalogue, such as u280, whose times this one keeps while it computes for real'),
  paceModel: z
    .string()
    .min(1)
    .optional()
    .describe('Model of the catalogue, such as llama-2-7b, for which it keeps them'),
  pacePreset: z
    .string()
    .min(1)
    .optional()
    .describe('How well that device is used, such as glitches; the first preset that knows it by default'),
  catalogue: z.array(z.string().min(1)).default([]).describe('Files that add to the catalogue or change it'),
  mergeLayers: z
    .int()
    .refine((layers) => MERGE_LAYERS.includes(layers), 'give 1, 2, 4 or 8')
    .default(2)
    .describe('Layers whose KV blocks are read and sent together, unless the request says: 1, 2, 4 or 8'),
  logFile: z.string().optional().describe('JSON log; without it the log goes to the terminal'),
})

export type AgentSettings = z.output<typeof agentSettings>
