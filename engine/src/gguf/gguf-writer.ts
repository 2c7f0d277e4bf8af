/** Writes GGUF files (version 3): metadata, then the tensors, which are asked for one after the other. */
import { closeSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import { blockLayout, type GgufTensorType, tensorTypeNumber } from './tensor-types.js'

export type MetadataEntry =
  | readonly [key: string, type: 'u32' | 'f32', value: number]
  | readonly [key: string, type: 'bool', value: boolean]
  | readonly [key: string, type: 'string', value: string]
  | readonly [key: string, type: 'strings', value: readonly string[]]
  | readonly [key: string, type: 'i32s' | 'f32s', value: readonly number[]]

export interface TensorToWrite {
  readonly name: string
  readonly type: GgufTensorType
  /** Row-major. */
  readonly shape: readonly number[]
  /** The stored bytes, in pieces of any size. */
  readonly pieces: () => Iterable<Uint8Array>
}

const ALIGNMENT = 32
const [U32, F32, BOOL, STRING, ARRAY, I32] = [4, 6, 7, 8, 9, 5]

/** The file appears whole or not at all. */
export function writeGguf(
  path: string,
  metadata: readonly MetadataEntry[],
  tensors: readonly TensorToWrite[],
): void {
  const temporary = `${path}.${process.pid}.part`
  const descriptor = openSync(temporary, 'w')
  try {
    let written = 0
    const put = (bytes: Uint8Array) => {
      for (let done = 0; done < bytes.length; ) done += writeSync(descriptor, bytes, done)
      written += bytes.length
    }
    const align = () => put(new Uint8Array(aligned(written) - written))
    put(headerOf(metadata, tensors))
    align()
    for (const tensor of tensors) {
      const end = written + tensorBytes(tensor)
      for (const piece of tensor.pieces()) put(piece)
      if (written !== end) throw new RangeError(`the tensor ${tensor.name} has another size than its shape`)
      align()
    }
    renameSync(temporary, path)
  } catch (error) {
    rmSync(temporary, { force: true })
    throw error
  } finally {
    closeSync(descriptor)
  }
}

function headerOf(metadata: readonly MetadataEntry[], tensors: readonly TensorToWrite[]): Buffer {
  const parts = [Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(metadata.length)]
  for (const entry of metadata) parts.push(text(entry[0]), ...valueBytes(entry))
  let offset = 0
  for (const tensor of tensors) {
    const dimensions = [...tensor.shape].reverse()
    parts.push(text(tensor.name), u32(dimensions.length), ...dimensions.map(u64))
    parts.push(u32(tensorTypeNumber(tensor.type)), u64(offset))
    offset = aligned(offset + tensorBytes(tensor))
  }
  return Buffer.concat(parts)
}

function valueBytes([, type, value]: MetadataEntry): Buffer[] {
  switch (type) {
    case 'u32':
      return [u32(U32), u32(value)]
    case 'f32':
      return [u32(F32), Buffer.from(Float32Array.of(value).buffer)]
    case 'bool':
      return [u32(BOOL), Buffer.of(value ? 1 : 0)]
    case 'string':
      return [u32(STRING), text(value)]
    case 'strings':
      return [u32(ARRAY), u32(STRING), u64(value.length), ...value.map(text)]
    case 'i32s':
      return [u32(ARRAY), u32(I32), u64(value.length), Buffer.from(Int32Array.from(value).buffer)]
    case 'f32s':
      return [u32(ARRAY), u32(F32), u64(value.length), Buffer.from(Float32Array.from(value).buffer)]
  }
}

function tensorBytes({ type, shape }: TensorToWrite): number {
  const { elements, bytes } = blockLayout(type)
  return (shape.reduce((product, size) => product * size, 1) / elements) * bytes
}

function aligned(offset: number): number {
  return Math.ceil(offset / ALIGNMENT) * ALIGNMENT
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value, 'utf8')
  return Buffer.concat([u64(bytes.length), bytes])
}
