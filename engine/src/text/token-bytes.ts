/**
 * What each token of a Hugging Face tokenizer adds to the text, as bytes.
 *
 * T1 A token's bytes do not depend on its neighbours, so text can be streamed. Decoders for which
 *    that is not so are refused by name.
 * Bytes are those of a continuation: the space that some tokenizers drop at the start of a whole
 * text is kept, since an answer goes on from its prompt.
 */
import { InvalidInputError, UnsupportedError } from '@kvasir/runtime/errors'
import { z } from 'zod'

export interface TokenTable {
  /** Bytes of the token, also of a special one (its name). Unknown ids give none. */
  bytes(id: number): Uint8Array
  isSpecial(id: number): boolean
}

const decoderSchema = z.looseObject({
  type: z.string(),
  decoders: z.array(z.looseObject({ type: z.string() })).optional(),
})
const tokenizerSchema = z.looseObject({
  added_tokens: z
    .array(z.looseObject({ id: z.number().int(), content: z.string(), special: z.boolean().optional() }))
    .nullish(),
  decoder: decoderSchema.nullish(),
  model: z.looseObject({
    vocab: z.union([z.record(z.string(), z.number().int()), z.array(z.tuple([z.string(), z.number()]))]),
  }),
})

const utf8 = new TextEncoder()
const NONE = new Uint8Array(0)
/** How SentencePiece writes a space. */
const SPACE_MARK = '▁'

/** `json` is tokenizer.json, `name` the model's, for messages. */
export function createTokenTable(json: unknown, name: string): TokenTable {
  const parsed = tokenizerSchema.safeParse(json)
  if (!parsed.success) {
    throw new InvalidInputError(
      `tokenizer.json of the model ${name} is not valid at ${parsed.error.issues[0]?.path.join('.')}; fetch the model again.`,
    )
  }
  const { added_tokens: added, decoder, model } = parsed.data
  const toBytes = tokenReader(decoder, name)
  const texts: (string | undefined)[] = []
  if (Array.isArray(model.vocab)) for (const [token] of model.vocab) texts.push(token)
  else for (const [token, id] of Object.entries(model.vocab)) texts[id] = token
  const addedTexts = new Map((added ?? []).map((token) => [token.id, token.content]))
  const special = new Set((added ?? []).filter((token) => token.special === true).map((token) => token.id))
  const known: (Uint8Array | undefined)[] = []
  return {
    bytes(id) {
      const cached = known[id]
      if (cached !== undefined) return cached
      const addedText = addedTexts.get(id)
      const text = texts[id]
      const bytes =
        addedText !== undefined ? utf8.encode(addedText) : text !== undefined ? toBytes(text) : NONE
      if (bytes !== NONE) known[id] = bytes
      return bytes
    },
    isSpecial: (id) => special.has(id),
  }
}

function tokenReader(
  decoder: z.infer<typeof decoderSchema> | null | undefined,
  name: string,
): (token: string) => Uint8Array {
  const steps = decoder?.type === 'Sequence' ? (decoder.decoders ?? []) : decoder ? [decoder] : []
  const types = steps.map((step) => step.type)
  const unknown = types.find(
    (type) => !['ByteLevel', 'Metaspace', 'Replace', 'ByteFallback', 'Fuse', 'Strip'].includes(type),
  )
  if (unknown !== undefined || types.length === 0) {
    throw new UnsupportedError(
      `The tokenizer of the model ${name} has the decoder ${unknown ?? 'none'}, which is not supported; use another model.`,
    )
  }
  if (types.includes('ByteLevel')) return byteLevelBytes
  const fallback = types.includes('ByteFallback')
  return (token) => {
    const byte = fallback ? /^<0x([0-9A-F]{2})>$/.exec(token)?.[1] : undefined
    if (byte !== undefined) return Uint8Array.of(Number.parseInt(byte, 16))
    return utf8.encode(token.replaceAll(SPACE_MARK, ' '))
  }
}

const BYTE_OF_CHARACTER = byteLevelAlphabet()

function byteLevelBytes(token: string): Uint8Array {
  const bytes: number[] = []
  for (const character of token) {
    const byte = BYTE_OF_CHARACTER.get(character)
    if (byte !== undefined) bytes.push(byte)
    else bytes.push(...utf8.encode(character))
  }
  return Uint8Array.from(bytes)
}

/** The printable characters that byte-level BPE writes for the 256 bytes. */
function byteLevelAlphabet(): Map<string, number> {
  const alphabet = new Map<string, number>()
  let next = 256
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
    alphabet.set(String.fromCodePoint(printable ? byte : next++), byte)
  }
  return alphabet
}
