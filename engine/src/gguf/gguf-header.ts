/**
 * The header of a GGUF file (versions 2 and 3): metadata, and where each tensor lies.
 *
 * H1 Everything the header claims is checked against the file before it is used or memory is taken for it.
 * H2 Every error names the file and says what to do.
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import { fstatSync, readSync } from 'node:fs'
import { InvalidInputError, UnsupportedError } from '@kvasir/runtime/errors'
import { blockLayout, type GgufTensorType, tensorTypeOf } from './tensor-types.js'

export type GgufValue = number | boolean | string | readonly GgufValue[]
export type GgufMetadata = ReadonlyMap<string, GgufValue>

export interface GgufTensor {
  /** The number in the file; what this engine reads of it is `type`. */
  readonly typeNumber: number
  readonly type: GgufTensorType | undefined
  /** Row-major, as everywhere in the engine: GGUF writes it the other way round. */
  readonly shape: readonly number[]
  /** Bytes from the start of the file; `end` is that of `start` where the type is unknown. */
  readonly start: number
  readonly end: number
}

export interface GgufHeader {
  readonly metadata: GgufMetadata
  readonly tensors: ReadonlyMap<string, GgufTensor>
}

export interface OpenGguf {
  readonly path: string
  readonly descriptor: number
}

const MAGIC = 0x46554747
const DIMENSIONS_MAX = 4
const ALIGNMENT_DEFAULT = 32
/** Headers of real models, with their tokenizers, are well under these; more would only fill memory. */
const HEADER_BYTES_MAX = 256 << 20
const ARRAY_VALUES_MAX = 1 << 23

const VALUE_TYPES = [
  'u8',
  'i8',
  'u16',
  'i16',
  'u32',
  'i32',
  'f32',
  'bool',
  'string',
  'array',
  'u64',
  'i64',
  'f64',
]
/** Bytes that one value takes at least. */
const VALUE_BYTES: Readonly<Record<string, number>> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  bool: 1,
  string: 8,
  u64: 8,
  i64: 8,
  f64: 8,
}

/** Throws InvalidInputError for a damaged file, UnsupportedError for one of another version or byte order. */
export function readGgufHeader(file: OpenGguf): GgufHeader {
  const reader = new HeaderReader(file)
  if (reader.size < 24) throw damaged(file.path, `it has only ${reader.size} bytes`)
  if (reader.unsigned32() !== MAGIC) {
    throw new InvalidInputError(`The file ${file.path} is no GGUF file; name a model in GGUF or a folder.`)
  }
  const version = reader.unsigned32()
  if (version !== 2 && version !== 3) {
    const what = version > 0xffff ? 'is big-endian' : `has version ${version} of GGUF`
    throw new UnsupportedError(
      `The model file ${file.path} ${what}, which is not supported; convert the model again with a current llama.cpp.`,
    )
  }
  // A tensor takes at least 24 bytes of header, a metadata entry 13.
  const tensorCount = reader.count(24, 'tensors')
  const entryCount = reader.count(13, 'metadata entries')
  const metadata = new Map<string, GgufValue>()
  for (let i = 0; i < entryCount; i++) metadata.set(reader.text(), reader.value(reader.valueType()))

  const alignment = metadata.get('general.alignment') ?? ALIGNMENT_DEFAULT
  if (typeof alignment !== 'number' || alignment < 1 || alignment % 1 !== 0 || alignment > 1 << 20) {
    throw damaged(file.path, `its alignment is ${alignment}`)
  }
  const found: { name: string; typeNumber: number; shape: number[]; offset: number }[] = []
  for (let i = 0; i < tensorCount; i++) {
    const name = reader.text()
    const dimensions = reader.unsigned32()
    if (dimensions < 1 || dimensions > DIMENSIONS_MAX) {
      throw damaged(file.path, `the tensor ${name} has ${dimensions} dimensions`)
    }
    const shape = Array.from({ length: dimensions }, () => reader.unsigned64()).reverse()
    found.push({ name, shape, typeNumber: reader.unsigned32(), offset: reader.unsigned64() })
  }
  const dataStart = Math.ceil(reader.position / alignment) * alignment
  const tensors = new Map<string, GgufTensor>()
  for (const { name, shape, typeNumber, offset } of found) {
    if (tensors.has(name)) throw damaged(file.path, `it has two tensors ${name}`)
    const type = tensorTypeOf(typeNumber)
    const start = dataStart + offset
    const end = start + (type === undefined ? 0 : tensorBytes(file.path, name, type, shape))
    if (!Number.isSafeInteger(end) || end > reader.size) {
      throw damaged(file.path, `the tensor ${name} ends after the file; it is truncated`)
    }
    tensors.set(name, { typeNumber, type, shape, start, end })
  }
  return { metadata, tensors }
}

function tensorBytes(path: string, name: string, type: GgufTensorType, shape: readonly number[]): number {
  const { elements, bytes } = blockLayout(type)
  const columns = shape[shape.length - 1] ?? 0
  if (columns % elements !== 0) {
    throw damaged(path, `rows of the tensor ${name} are ${columns} long, no multiple of ${elements}`)
  }
  return (shape.reduce((product, size) => product * size, 1) / elements) * bytes
}

/** Reads values one after the other, the file in pieces. */
class HeaderReader {
  readonly size: number
  readonly #file: OpenGguf
  #piece = Buffer.alloc(0)
  /** Where the piece lies in the file, and what of it was read. */
  #pieceStart = 0
  #used = 0

  constructor(file: OpenGguf) {
    this.#file = file
    this.size = fstatSync(file.descriptor).size
  }

  get position(): number {
    return this.#pieceStart + this.#used
  }

  unsigned32(): number {
    return this.#take(4).readUInt32LE()
  }

  unsigned64(): number {
    return this.#safe(this.#take(8).readBigUInt64LE())
  }

  /** A number of things of which each takes at least `bytesEach` in the rest of the file. */
  count(bytesEach: number, what: string): number {
    const count = this.unsigned64()
    if (count > (this.size - this.position) / bytesEach) {
      throw damaged(this.#file.path, `it claims ${count} ${what}, more than it has room for`)
    }
    return count
  }

  text(): string {
    return this.#take(this.count(1, 'bytes of a text')).toString('utf8')
  }

  valueType(): string {
    const number = this.unsigned32()
    const type = VALUE_TYPES[number]
    if (type === undefined) throw damaged(this.#file.path, `its metadata has a value of the type ${number}`)
    return type
  }

  value(type: string): GgufValue {
    switch (type) {
      case 'u8':
        return this.#take(1).readUInt8()
      case 'i8':
        return this.#take(1).readInt8()
      case 'u16':
        return this.#take(2).readUInt16LE()
      case 'i16':
        return this.#take(2).readInt16LE()
      case 'u32':
        return this.unsigned32()
      case 'i32':
        return this.#take(4).readInt32LE()
      case 'f32':
        return this.#take(4).readFloatLE()
      case 'bool':
        return this.#take(1).readUInt8() !== 0
      case 'string':
        return this.text()
      case 'u64':
        return this.unsigned64()
      case 'i64':
        return this.#safe(this.#take(8).readBigInt64LE())
      case 'f64':
        return this.#take(8).readDoubleLE()
      default:
        return this.#array()
    }
  }

  #array(): readonly GgufValue[] {
    const type = this.valueType()
    const bytes = VALUE_BYTES[type]
    if (bytes === undefined) throw damaged(this.#file.path, 'its metadata has an array of arrays')
    const count = this.count(bytes, 'values of an array')
    if (count > ARRAY_VALUES_MAX) {
      throw damaged(this.#file.path, `its metadata has an array of ${count} values`)
    }
    const values: GgufValue[] = []
    for (let i = 0; i < count; i++) values.push(this.value(type))
    return values
  }

  #safe(value: bigint): number {
    const number = Number(value)
    if (!Number.isSafeInteger(number)) throw damaged(this.#file.path, `its header has the number ${value}`)
    return number
  }

  #take(bytes: number): Buffer {
    if (this.#used + bytes > this.#piece.length) this.#fetch(bytes)
    const taken = this.#piece.subarray(this.#used, this.#used + bytes)
    this.#used += bytes
    return taken
  }

  #fetch(bytes: number): void {
    const start = this.position
    if (start + bytes > this.size)
      throw damaged(this.#file.path, 'its header ends after the file; it is truncated')
    if (start + bytes > HEADER_BYTES_MAX) {
      throw damaged(this.#file.path, `its header is longer than ${HEADER_BYTES_MAX} bytes`)
    }
    this.#piece = Buffer.alloc(Math.min(Math.max(bytes, PIECE_BYTES), this.size - start))
    readExactly(this.#file, this.#piece, start)
    this.#pieceStart = start
    this.#used = 0
  }
}

const PIECE_BYTES = 1 << 20
/** One read call takes at most 2 GiB. */
const READ_BYTES_MAX = 1 << 30

export function readExactly({ path, descriptor }: OpenGguf, target: Uint8Array, position: number): void {
  let done = 0
  while (done < target.length) {
    const length = Math.min(target.length - done, READ_BYTES_MAX)
    const read = readSync(descriptor, target, done, length, position + done)
    if (read === 0) throw damaged(path, 'it ends too early; it is truncated')
    done += read
  }
}

export function damaged(path: string, what: string): InvalidInputError {
  return new InvalidInputError(`The model file ${path} is damaged: ${what}; fetch the model again.`)
}
