/**
 * What an entry of the catalogue must look like. Each message completes "<field> is <value>; it must be …", so that it
 * says what to write instead.
 */
import { z } from 'zod'
import { DEVICE_KINDS, PRECISIONS } from './specs.js'

function above0(what: string) {
  const error = `it must be ${what}`
  return z.number({ error }).positive({ error })
}

function count(what: string) {
  const error = `it must be a whole number of ${what}, at least 1`
  return z.number({ error }).int({ error }).min(1, { error })
}

function share(what: string) {
  const error = `it must be ${what} as a share above 0 and at most 1, such as 0.4`
  return z.number({ error }).positive({ error }).max(1, { error })
}

const name = z.string({ error: 'it must be a text: what people call it' }).min(1)
const operations = above0('operations a second above 0, such as 312e12 for 312 TFLOPS')
const rate = above0('bytes a second above 0, such as 1935e9 for 1,935 GB/s')
const bytes = above0('bytes above 0, such as 80e9 for 80 GB')
const watts = above0('watts above 0, such as 300')

const idError = { error: "it must be the id of a link, such as pcie4-x16, as under 'links'" }

export const deviceEntry = z.strictObject({
  name,
  kind: z.enum(DEVICE_KINDS, { error: `it must be one of ${DEVICE_KINDS.join(', ')}` }),
  compute: z.partialRecord(z.enum(PRECISIONS), operations, {
    error: 'it must be operations a second by precision, such as { fp16: 312e12 }',
  }),
  memories: z
    .record(
      z.string(),
      z.strictObject(
        { bytes, bytesPerSecond: rate },
        { error: 'it must be such as { bytes: 80e9, bytesPerSecond: 1935e9 }' },
      ),
      {
        error:
          'it must be memories by name, nearest first, such as { hbm: { bytes: 80e9, bytesPerSecond: 1935e9 } }',
      },
    )
    .refine((memories) => Object.keys(memories).length > 0, {
      error: 'it must be at least one memory, such as { hbm: { bytes: 80e9, bytesPerSecond: 1935e9 } }',
    }),
  onchipBytes: bytes.exactOptional(),
  onchipBytesPerSecond: rate.exactOptional(),
  link: z.string(idError).min(1, idError),
  maxWatts: watts.exactOptional(),
  idleWatts: watts.exactOptional(),
  dollars: above0('dollars above 0, such as 12000').exactOptional(),
})

const latencyError = { error: 'it must be microseconds of 0 or more, such as 15' }

export const linkEntry = z.strictObject({
  name,
  bytesPerSecond: rate,
  rawBytesPerSecond: rate,
  latencyUs: z.number(latencyError).min(0, latencyError),
})

export const modelEntry = z.strictObject({
  name,
  layers: count('layers'),
  hidden: count('values'),
  heads: count('heads'),
  kvHeads: count('heads'),
  headDim: count('values'),
  feedForward: count('values'),
  vocabulary: count('tokens'),
  tiedEmbeddings: z.boolean({ error: 'it must be true or false' }),
  parameters: above0('a number of parameters, such as 6.738e9'),
  activeParameters: above0('a number of parameters, such as 3.61e9').exactOptional(),
  embeddingParameters: z
    .number({ error: 'it must be a number of parameters, 0 or more' })
    .min(0, { error: 'it must be a number of parameters, 0 or more' })
    .exactOptional(),
  experts: count('experts').exactOptional(),
  activeExperts: count('experts').exactOptional(),
  kvValuesPerToken: count('values').exactOptional(),
  contextTokensMax: count('tokens'),
})

const precisionError = { error: `it must be one of ${PRECISIONS.join(', ')}` }

const useEntry = z.strictObject({
  computePrecision: z.enum(PRECISIONS, precisionError),
  prefillCompute: share('what prefill reaches of the peak'),
  decodeBandwidth: share('what decoding reaches of the memory rate'),
  weightBits: above0('bits of a weight above 0, such as 16 or 4.25'),
  kvBits: above0('bits of a value above 0, such as 16 or 8'),
  decodeSpeedups: z
    .record(
      z.string().regex(/^[1-9]\d*$/, { error: 'it must be a number of tokens' }),
      above0('a factor above 0, such as 1.2'),
      { error: 'it must be factors by tokens in the sequence, such as { 128: 1.2, 1024: 1.16 }' },
    )
    .exactOptional(),
  prefillWatts: watts.exactOptional(),
  decodeWatts: watts.exactOptional(),
  decodesAtOnce: count('sequences'),
  fusesSteps: z.boolean({ error: 'it must be true or false' }),
})

export const presetEntry = z.strictObject({
  name,
  devices: z.record(z.string(), useEntry, {
    error: 'it must be uses by id of a device, such as { u280: { … } }',
  }),
})

export type UseEntry = z.output<typeof useEntry>
