/**
 * Reads safetensors files, sharded or not, tensor by tensor.
 *
 * F1 Everything a header claims is checked against the file before a byte of a tensor is used.
 * F2 Every error names the file and says what to do.
 */
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs'
import { basename, join } from 'node:path'
import { InvalidInputError, messageOf, UnsupportedError } from '@kvasir/runtime/errors'
import { z } from 'zod'
import { bf16ToF32, f16ToF32 } from './half-floats.js'
import type { WeightSource } from './weight-source.js'

const ELEMENT_BYTES = { F32: 4, F16: 2, BF16: 2 } as const
type ElementType = keyof typeof ELEMENT_BYTES

interface StoredTensor {
  readonly file: OpenFile
  readonly type: string
  readonly shape: readonly number[]
  /** Bytes from the start of the file. */
  readonly start: number
  readonly end: number
}

interface OpenFile {
  readonly path: string
  readonly descriptor: number
}

const FILE_ENDING = '.safetensors'
const SINGLE_FILE = 'model.safetensors'
export const WEIGHT_INDEX = 'model.safetensors.index.json'
/** Headers of real models are well under this; more is a damaged length. */
const HEADER_BYTES_MAX = 100_000_000

const headerSchema = z.record(
  z.string(),
  z.object({
    dtype: z.string(),
    shape: z.array(z.number().int().nonnegative()),
    data_offsets: z.tuple([z.number().int().nonnegative(), z.number().int().nonnegative()]),
  }),
)
const indexSchema = z.looseObject({ weight_map: z.record(z.string(), z.string()) })

/** Names of the weight files in a model's folder, sorted. Throws InvalidInputError when there are none. */
export function weightFiles(folder: string): string[] {
  const indexPath = join(folder, WEIGHT_INDEX)
  if (existsSync(indexPath)) {
    let json: unknown
    try {
      json = JSON.parse(readFileSync(indexPath, 'utf8'))
    } catch (error) {
      throw damaged(indexPath, messageOf(error))
    }
    const index = indexSchema.safeParse(json)
    if (!index.success) throw damaged(indexPath, 'it has no weight_map')
    const files = [...new Set(Object.values(index.data.weight_map))].sort()
    for (const file of files) {
      if (file !== basename(file)) throw damaged(indexPath, `it names ${file}, outside the folder`)
      if (!file.endsWith(FILE_ENDING)) throw damaged(indexPath, `it names ${file}, no ${FILE_ENDING} file`)
      if (!existsSync(join(folder, file))) throw damaged(join(folder, file), 'it is missing')
    }
    return files
  }
  if (existsSync(join(folder, SINGLE_FILE))) return [SINGLE_FILE]
  throw new InvalidInputError(
    `The folder ${folder} has neither ${SINGLE_FILE} nor ${WEIGHT_INDEX}; fetch the model's safetensors files.`,
  )
}

export function openSafetensors(folder: string): WeightSource {
  const files: OpenFile[] = []
  const close = () => {
    for (const file of files) closeSync(file.descriptor)
    files.length = 0
  }
  const tensors = new Map<string, StoredTensor>()
  try {
    for (const name of weightFiles(folder)) {
      const path = join(folder, name)
      const file = { path, descriptor: openSync(path, 'r') }
      files.push(file)
      readHeader(file, tensors)
    }
  } catch (error) {
    close()
    throw error
  }

  /** The tensor as stored, its shape and type checked. */
  const find = (name: string, shape: readonly number[]) => {
    const tensor = tensors.get(name)
    if (tensor === undefined) {
      throw new InvalidInputError(`The model in ${folder} has no tensor ${name}; fetch the model again.`)
    }
    if (tensor.shape.length !== shape.length || tensor.shape.some((size, i) => size !== shape[i])) {
      throw new InvalidInputError(
        `The tensor ${name} in ${tensor.file.path} has shape [${tensor.shape}] where config.json says [${shape}]; fetch the model again.`,
      )
    }
    if (!isElementType(tensor.type)) {
      throw new UnsupportedError(
        `The tensor ${name} in ${tensor.file.path} has type ${tensor.type}; use a model in F32, F16 or BF16.`,
      )
    }
    return { tensor, type: tensor.type }
  }

  /** `first`: the element that `target` begins with. */
  const readElements = (name: string, shape: readonly number[], first: number, target: Float32Array) => {
    const { tensor, type } = find(name, shape)
    const start = tensor.start + first * ELEMENT_BYTES[type]
    if (type === 'F32') {
      const bytes = new Uint8Array(target.buffer, target.byteOffset, target.byteLength)
      readExactly(tensor.file, bytes, start)
      return
    }
    // In pieces, so that the stored form of a large tensor is never held beside the other.
    const piece = new Uint16Array(Math.min(target.length, 1 << 20))
    for (let done = 0; done < target.length; done += piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, target.length - done))
      readExactly(tensor.file, new Uint8Array(part.buffer, 0, part.byteLength), start + done * 2)
      convert(type, part, target.subarray(done, done + part.length))
    }
  }

  return {
    read: (name, shape, target) => readElements(name, shape, 0, target),
    readRows: (name, shape, firstRow, target) => readElements(name, shape, firstRow * shape[1], target),
    rows(name, shape) {
      const { tensor, type } = find(name, shape)
      const bytes = new Uint8Array(tensor.end - tensor.start)
      readExactly(tensor.file, bytes, tensor.start)
      const columns = shape[1]
      if (type === 'F32') {
        const values = new Float32Array(bytes.buffer)
        return (row, target) => target.set(values.subarray(row * columns, (row + 1) * columns))
      }
      const values = new Uint16Array(bytes.buffer)
      return (row, target) => convert(type, values.subarray(row * columns, (row + 1) * columns), target)
    },
    storedBytes(name, shape) {
      const { tensor } = find(name, shape)
      return tensor.end - tensor.start
    },
    close,
  }
}

function readHeader(file: OpenFile, tensors: Map<string, StoredTensor>): void {
  const size = fstatSync(file.descriptor).size
  if (size < 8) throw damaged(file.path, `it has only ${size} bytes`)
  const lengthBytes = new Uint8Array(8)
  readExactly(file, lengthBytes, 0)
  const headerBytes = Number(new DataView(lengthBytes.buffer).getBigUint64(0, true))
  if (headerBytes > Math.min(size - 8, HEADER_BYTES_MAX)) {
    throw damaged(file.path, 'its header is longer than the file')
  }
  const bytes = new Uint8Array(headerBytes)
  readExactly(file, bytes, 8)
  let json: unknown
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (error) {
    throw damaged(file.path, `its header is not JSON: ${messageOf(error)}`)
  }
  if (typeof json !== 'object' || json === null) throw damaged(file.path, 'its header is not an object')
  const { __metadata__: _, ...entries } = json as Record<string, unknown>
  const header = headerSchema.safeParse(entries)
  if (!header.success) {
    throw damaged(file.path, `its header is wrong at ${header.error.issues[0]?.path.join('.')}`)
  }
  const dataStart = 8 + headerBytes
  for (const [name, entry] of Object.entries(header.data)) {
    const [start, end] = entry.data_offsets
    if (end < start || dataStart + end > size) {
      throw damaged(file.path, `the tensor ${name} ends after the file; it is truncated`)
    }
    if (isElementType(entry.dtype)) {
      const elements = entry.shape.reduce((product, dimension) => product * dimension, 1)
      if (elements * ELEMENT_BYTES[entry.dtype] !== end - start) {
        throw damaged(file.path, `the tensor ${name} has another size than its shape`)
      }
    }
    tensors.set(name, {
      file,
      type: entry.dtype,
      shape: entry.shape,
      start: dataStart + start,
      end: dataStart + end,
    })
  }
}

/** One read call takes at most 2 GiB. */
const READ_BYTES_MAX = 1 << 30

function readExactly(file: OpenFile, target: Uint8Array, position: number): void {
  let done = 0
  while (done < target.length) {
    const length = Math.min(target.length - done, READ_BYTES_MAX)
    const read = readSync(file.descriptor, target, done, length, position + done)
    if (read === 0) throw damaged(file.path, 'it ends too early; it is truncated')
    done += read
  }
}

function convert(type: 'F16' | 'BF16', source: Uint16Array, target: Float32Array): void {
  if (type === 'F16') f16ToF32(source, target)
  else bf16ToF32(source, target)
}

function isElementType(type: string): type is ElementType {
  return Object.hasOwn(ELEMENT_BYTES, type)
}

function damaged(path: string, what: string): InvalidInputError {
  return new InvalidInputError(`The model file ${path} is damaged: ${what}; fetch the model again.`)
}
