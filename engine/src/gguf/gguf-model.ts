/** A GGUF file as a model: its configuration, tokenizer, weights and digest. */
import { closeSync, openSync } from 'node:fs'
import { basename } from 'node:path'
import { InvalidInputError, messageOf } from '@kvasir/runtime/errors'
import { fileDigest } from '../file-digest.js'
import type { ResolvedModel } from '../model-files.js'
import { rowReader } from './dequantize.js'
import { ggufConfig, ROPE_FACTORS } from './gguf-config.js'
import { damaged, type GgufHeader, type OpenGguf, readExactly, readGgufHeader } from './gguf-header.js'
import { ggufTokenizer } from './gguf-tokenizer.js'
import { openGgufWeights } from './gguf-weights.js'

export const GGUF_ENDING = '.gguf'

/** Throws InvalidInputError or UnsupportedError, each one sentence for the user. The digest is that of the file. */
export function resolveGguf(path: string): ResolvedModel {
  const name = basename(path, GGUF_ENDING)
  const { header, ropeFactors } = withOpenFile(path, (file) => {
    const header = readGgufHeader(file)
    return { header, ropeFactors: readRopeFactors(file, header) }
  })
  const { architecture, config } = ggufConfig(header, ropeFactors, path, name)
  return {
    name,
    path,
    config,
    stopTokens: config.stopTokens,
    digest: () => fileDigest(path),
    openWeights: () => openGgufWeights({ path, header, architecture, headDim: config.headDim }),
    files: async () => [{ name: basename(path), path, text: false }],
    readTokenizer: async () => ggufTokenizer(header.metadata, path, name),
  }
}

function withOpenFile<Result>(path: string, use: (file: OpenGguf) => Result): Result {
  let descriptor: number
  try {
    descriptor = openSync(path, 'r')
  } catch (error) {
    throw new InvalidInputError(`The model file ${path} cannot be read: ${messageOf(error)}.`)
  }
  try {
    return use({ path, descriptor })
  } finally {
    closeSync(descriptor)
  }
}

function readRopeFactors(file: OpenGguf, { tensors }: GgufHeader): Float32Array | undefined {
  const tensor = tensors.get(ROPE_FACTORS)
  if (tensor === undefined) return undefined
  const [length = 0] = tensor.shape
  if (tensor.shape.length !== 1 || tensor.type !== 'F32') {
    throw damaged(file.path, `the tensor ${ROPE_FACTORS} is no list of numbers`)
  }
  const bytes = new Uint8Array(tensor.end - tensor.start)
  readExactly(file, bytes, tensor.start)
  const factors = new Float32Array(length)
  rowReader(tensor.type)(bytes, 0, factors)
  return factors
}
