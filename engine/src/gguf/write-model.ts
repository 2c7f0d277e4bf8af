/**
 * A model as a GGUF file, as llama.cpp's converter and quantiser write it: for comparisons on the same file, and for tests.
 *
 * Matrices have the type asked for; one whose rows are no whole number of its blocks falls back to Q4_0 or F16. Norms
 * and biases are F32.
 */
import type { ModelConfig } from '../model-config.js'
import type { ResolvedModel } from '../model-files.js'
import { scaledFrequency } from '../rotary.js'
import type { WeightSource } from '../weight-source.js'
import { modelTensors, ROPE_FACTORS } from './gguf-config.js'
import { type MetadataEntry, type TensorToWrite, writeGguf } from './gguf-writer.js'
import { type WritableType, writeRow } from './quantize.js'
import { TOKEN_KINDS } from './special-tokens.js'
import { ggufTensorName, hasPairedRows, pairedRow } from './tensor-names.js'
import { blockLayout } from './tensor-types.js'
import { tokenizerMetadata } from './write-tokenizer.js'

/** Of generated models. */
const BEGIN_TOKEN = 256
const END_TOKEN = 257
/** What is converted at once. */
const PIECE_ELEMENTS = 1 << 20

/** Writes the whole file. Throws what the model's weights throw. */
export async function writeModelAsGguf(
  model: ResolvedModel,
  type: WritableType,
  path: string,
): Promise<void> {
  const { config } = model
  const architecture = config.qkNorm ? 'qwen3' : config.qkvBias ? 'qwen2' : 'llama'
  const files = await model.readTokenizer()
  const metadata: MetadataEntry[] = [
    ['general.architecture', 'string', architecture],
    ['general.name', 'string', model.name],
    ...configMetadata(config, architecture),
    ...(files === undefined
      ? dummyTokenizer(config.vocabularySize)
      : tokenizerMetadata(files, config.vocabularySize)),
  ]
  const source = model.openWeights()
  try {
    const tensors = modelTensors(config).map((tensor) =>
      tensorToWrite(tensor, type, config, architecture, source),
    )
    const factors = ropeFactors(config)
    if (factors !== undefined) {
      const bytes = new Uint8Array(Float32Array.from(factors).buffer)
      tensors.push({ name: ROPE_FACTORS, type: 'F32', shape: [factors.length], pieces: () => [bytes] })
    }
    writeGguf(path, metadata, tensors)
  } finally {
    source.close()
  }
}

function configMetadata(config: ModelConfig, architecture: string): MetadataEntry[] {
  const of = (key: string) => `${architecture}.${key}`
  const entries: MetadataEntry[] = [
    [of('context_length'), 'u32', config.contextTokensMax],
    [of('embedding_length'), 'u32', config.hiddenSize],
    [of('block_count'), 'u32', config.layers],
    [of('feed_forward_length'), 'u32', config.intermediateSize],
    [of('attention.head_count'), 'u32', config.heads],
    [of('attention.head_count_kv'), 'u32', config.kvHeads],
    [of('attention.key_length'), 'u32', config.headDim],
    [of('attention.value_length'), 'u32', config.headDim],
    [of('attention.layer_norm_rms_epsilon'), 'f32', config.normEpsilon],
    [of('rope.dimension_count'), 'u32', config.headDim],
    [of('rope.freq_base'), 'f32', config.ropeTheta],
    [of('vocab_size'), 'u32', config.vocabularySize],
  ]
  if (config.slidingWindow !== undefined) {
    entries.push([of('attention.sliding_window'), 'u32', config.slidingWindow.tokens])
  }
  if (config.ropeScaling?.kind === 'linear') {
    entries.push([of('rope.scaling.type'), 'string', 'linear'])
    entries.push([of('rope.scaling.factor'), 'f32', config.ropeScaling.factor])
  }
  return entries
}

function ropeFactors({ ropeScaling, ropeTheta, headDim }: ModelConfig): readonly number[] | undefined {
  if (ropeScaling?.kind === 'by-pair') return ropeScaling.factors
  if (ropeScaling?.kind !== 'llama3') return undefined
  return Array.from({ length: headDim / 2 }, (_, pair) => {
    const frequency = ropeTheta ** ((-2 * pair) / headDim)
    return frequency / scaledFrequency(frequency, ropeScaling)
  })
}

function tensorToWrite(
  tensor: string,
  wanted: WritableType,
  config: ModelConfig,
  architecture: string,
  source: WeightSource,
): TensorToWrite {
  const shape = tensorShape(tensor, config)
  const [rows = 0, columns] = shape
  const name = ggufTensorName(tensor)
  if (columns === undefined) {
    const values = () => {
      const target = new Float32Array(rows)
      source.read(tensor, [rows], target)
      return [new Uint8Array(target.buffer)]
    }
    return { name, type: 'F32', shape, pieces: values }
  }
  const type = fittingType(wanted, columns)
  const { elements, bytes } = blockLayout(type)
  const rowBytes = (columns / elements) * bytes
  const group = hasPairedRows(architecture, tensor) ? config.headDim : 1
  const rowsOfPiece = Math.max(1, Math.floor(PIECE_ELEMENTS / columns / group)) * group
  function* pieces() {
    for (let first = 0; first < rows; first += rowsOfPiece) {
      const count = Math.min(rowsOfPiece, rows - first)
      const values = new Float32Array(count * (columns ?? 0))
      source.readRows(tensor, [rows, columns ?? 0], first, values)
      const stored = new DataView(new ArrayBuffer(count * rowBytes))
      for (let row = 0; row < count; row++) {
        const to = group === 1 ? row : pairedRow(row, group)
        writeRow(
          type,
          values.subarray(row * (columns ?? 0), (row + 1) * (columns ?? 0)),
          stored,
          to * rowBytes,
        )
      }
      yield new Uint8Array(stored.buffer)
    }
  }
  return { name, type, shape, pieces }
}

function fittingType(wanted: WritableType, columns: number): WritableType {
  if (columns % blockLayout(wanted).elements === 0) return wanted
  return columns % blockLayout('Q4_0').elements === 0 ? 'Q4_0' : 'F16'
}

function tensorShape(tensor: string, config: ModelConfig): readonly number[] {
  const { hiddenSize, heads, kvHeads, headDim, intermediateSize, vocabularySize } = config
  const [width, kvWidth] = [heads * headDim, kvHeads * headDim]
  const [, part = ''] = /([^.]+)\.(?:weight|bias)$/.exec(tensor) ?? []
  if (tensor.endsWith('.bias')) return [part === 'q_proj' ? width : kvWidth]
  switch (part) {
    case 'embed_tokens':
    case 'lm_head':
      return [vocabularySize, hiddenSize]
    case 'q_proj':
      return [width, hiddenSize]
    case 'k_proj':
    case 'v_proj':
      return [kvWidth, hiddenSize]
    case 'o_proj':
      return [hiddenSize, width]
    case 'gate_proj':
    case 'up_proj':
      return [intermediateSize, hiddenSize]
    case 'down_proj':
      return [hiddenSize, intermediateSize]
    case 'q_norm':
    case 'k_norm':
      return [headDim]
    default:
      return [hiddenSize]
  }
}

/** For generated models: bytes first as in dummy-text.ts, then the begin token, an end token, and words. */
function dummyTokenizer(vocabularySize: number): MetadataEntry[] {
  const hex = (byte: number) => byte.toString(16).toUpperCase().padStart(2, '0')
  const tokens = Array.from({ length: vocabularySize }, (_, id) =>
    id < BEGIN_TOKEN ? `<0x${hex(id)}>` : id === BEGIN_TOKEN ? '<s>' : id === END_TOKEN ? '</s>' : `▁w${id}`,
  )
  const kindOf = (id: number) => (id < BEGIN_TOKEN ? 'byte' : id <= END_TOKEN ? 'control' : 'normal')
  return [
    ['tokenizer.ggml.model', 'string', 'llama'],
    ['tokenizer.ggml.tokens', 'strings', tokens],
    ['tokenizer.ggml.scores', 'f32s', tokens.map((_, id) => -id)],
    ['tokenizer.ggml.token_type', 'i32s', tokens.map((_, id) => TOKEN_KINDS.indexOf(kindOf(id)))],
    ['tokenizer.ggml.bos_token_id', 'u32', BEGIN_TOKEN],
    ['tokenizer.ggml.eos_token_id', 'u32', END_TOKEN],
    ['tokenizer.ggml.add_bos_token', 'bool', true],
    ['tokenizer.ggml.add_space_prefix', 'bool', false],
  ]
}
