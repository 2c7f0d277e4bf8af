/** Numerics as a message of the driver's protocol, and back. */
import * as wire from '@kvasir/proto/kvasir/driver/v1/driver'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { KvFormat, Numerics, WeightFormat } from '../numerics.js'

/** Throws InvalidInputError for numerics that are none. */
export function numericsOf(numerics: wire.Numerics | undefined): Numerics {
  return {
    weights: weightFormatOf(numerics?.weights),
    pool: kvFormatOf(numerics?.pool),
    wire: kvFormatOf(numerics?.wire),
  }
}

export function numericsMessage({ weights, pool, wire: onWire }: Numerics): wire.Numerics {
  return {
    weights: weights === 'f32' ? wire.WeightFormat.F32 : wire.WeightFormat.INT4,
    pool: kvFormatMessage(pool),
    wire: kvFormatMessage(onWire),
  }
}

function weightFormatOf(format: wire.WeightFormat | undefined): WeightFormat {
  if (format === wire.WeightFormat.F32) return 'f32'
  if (format === wire.WeightFormat.INT4) return 'int4'
  throw new InvalidInputError(`Numerics name no format of weights that is known: ${format}.`)
}

function kvFormatOf(format: wire.KvFormat | undefined): KvFormat {
  if (format === wire.KvFormat.F32) return 'f32'
  if (format === wire.KvFormat.INT8) return 'int8'
  throw new InvalidInputError(`Numerics name no format of KV that is known: ${format}.`)
}

function kvFormatMessage(format: KvFormat): wire.KvFormat {
  return format === 'f32' ? wire.KvFormat.F32 : wire.KvFormat.INT8
}
