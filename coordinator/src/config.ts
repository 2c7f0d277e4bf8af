/**
 * Settings of the coordinator process: each is a flag, a variable KVASIR_…, or a key of the
 * settings file (docs/configuration.md).
 */
import { z } from 'zod'
import { ORDER_NAMES, PICK_NAMES } from './core/policies/policy-names.js'

const WEIGHT_MAX = 1_000_000

/** `key-1=2` → ['key-1', 2]; undefined where it is no such thing. The name may hold an equals sign itself. */
export function weightOf(text: string): readonly [tenant: string, weight: number] | undefined {
  const match = /^(.+)=(\d+(?:\.\d+)?)$/.exec(text)
  const weight = Number(match?.[2])
  return match?.[1] !== undefined && weight > 0 && weight <= WEIGHT_MAX ? [match[1], weight] : undefined
}

const port = z.int().min(0).max(65_535)

export const coordinatorConfigSchema = z
  .object({
    nats: z.string().default('nats://127.0.0.1:4222').describe('URL of the NATS server.'),
    model: z
      .array(z.string().min(1))
      .default([])
      .describe(
        'Models that clients may name from the start; repeatable. Others are served once devices have them.',
      ),
    profile: z.enum(['exact', 'paper']).default('exact').describe('Numerics of requests that ask for none.'),
    host: z.string().default('127.0.0.1').describe('Address that the HTTP server listens on.'),
    port: port.optional().describe('Port; taken is an error, 0 takes any free one.'),
    portPreferred: port
      .optional()
      .describe('Port to try first; when it is taken, the next free one. Default 8080.'),
    advertiseHost: z
      .string()
      .optional()
      .describe("Host name under which agents reach this server; `host` by default, or the machine's name."),
    coordinatorId: z
      .string()
      .regex(/^[A-Za-z0-9_-]{1,64}$/, 'use letters, digits, "-" or "_"')
      .optional()
      .describe('Name of this coordinator in the cluster; a random one by default.'),
    logFile: z
      .string()
      .optional()
      .describe('Log as JSON lines to this file, instead of readable lines to stderr.'),
    apiKeys: z
      .array(z.string().min(8, 'use keys of at least 8 characters'))
      .default([])
      .describe('Keys that clients must send as bearer tokens; none means that everyone may use the API.'),
    bodyBytesMax: z
      .int()
      .min(1_024)
      .default(8 * 1024 * 1024)
      .describe('Largest request body, bytes.'),
    uploadBytesMax: z
      .int()
      .min(1_024)
      .default(4 * 1024 * 1024 * 1024)
      .describe('Largest upload of documents to a corpus, bytes.'),
    streamBufferBytesMax: z
      .int()
      .min(1_024)
      .default(1024 * 1024)
      .describe('What a slow client may leave unread before its request is cancelled, bytes.'),
    streamDrainMs: z
      .int()
      .min(100)
      .default(30_000)
      .describe('How long a client may take for the rest of a stream that has ended, milliseconds.'),
    promptsWaitingMax: z.int().min(1).default(256).describe('Prompts that may wait for the tokenizer.'),
    queuedMax: z.int().min(1).default(256).describe('Requests that may wait for devices; more get a 503.'),
    placementDeadlineMs: z
      .int()
      .min(1)
      .default(10_000)
      .describe('Longest wait for a device, the first or a later one, milliseconds; then a 503.'),
    requestDeadlineMs: z.int().min(1).default(600_000).describe('Longest life of a request, milliseconds.'),
    attentionDefault: z
      .enum(['auto', 'dense'])
      .default('auto')
      .describe(
        'Attention of requests that ask for none: auto may choose pages in contexts above 4,096 tokens.',
      ),
    admission: z
      .boolean()
      .default(true)
      .describe('Whether requests that would miss the deadline of their first token are refused early.'),
    ttftDeadlineMs: z
      .int()
      .min(1)
      .optional()
      .describe('Time to the first token of requests that give none, milliseconds; none by default.'),
    tenantWeights: z
      .array(
        z
          .string()
          .refine(
            (text) => weightOf(text) !== undefined,
            'use TENANT=WEIGHT, such as key-1=2, with a weight above 0',
          ),
      )
      .default([])
      .describe(
        'Shares of tenants that contend, TENANT=WEIGHT; of others 1. With API keys tenants are key-1, key-2, …',
      ),
    orderPolicy: z
      .enum(ORDER_NAMES)
      .default('fcfs')
      .describe("Which of one tenant's waiting requests of one priority comes first."),
    pickPolicy: z.enum(PICK_NAMES).default('house').describe('Which pair of devices a request gets.'),
    decodeAssist: z
      .boolean()
      .default(true)
      .describe('Whether devices that prefer prefill decode where others that prefer it are busy.'),
    traceSampleRatio: z.number().min(0).max(1).default(1).describe('Share of ordinary traces that is kept.'),
    slowRequestMs: z
      .number()
      .min(0)
      .default(10_000)
      .describe('Requests slower than this are always traced, milliseconds.'),
    tracesMax: z.int().min(1).default(2_000).describe('Traces held in memory.'),
    traceBytesMax: z
      .int()
      .min(65_536)
      .default(64 * 1024 * 1024)
      .describe('Memory held by traces, bytes.'),
  })
  .refine((config) => config.port === undefined || config.portPreferred === undefined, {
    error: 'give --port or --port-preferred, not both',
  })

export type CoordinatorConfig = z.output<typeof coordinatorConfigSchema>
