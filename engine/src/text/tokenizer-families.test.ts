/**
 * Tokenizers built as those of Llama, Mistral and Qwen are, against what Hugging Face's own library says
 * (engine/fixtures/tokenizers/make.py).
 */
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { writeTestModel } from '../testing/test-model.js'
import { loadTextModel, type TextModel } from './text-model.js'

interface GoldenCase {
  readonly text: string
  readonly tokens: number[]
  readonly plain: number[]
  readonly decoded: string
}

const fixture = (family: string) =>
  fileURLToPath(new URL(`../../fixtures/tokenizers/${family}`, import.meta.url))
const folders: string[] = []
afterAll(() => {
  for (const folder of folders) rmSync(dirname(folder), { recursive: true })
})

interface Changes {
  readonly settings?: object
  readonly template?: string
  readonly generation?: object
  /** The post-processor of tokenizer.json. */
  readonly postProcessor?: object
}

async function textModel(family: string, changes: Changes = {}): Promise<TextModel> {
  const folder = writeTestModel()
  folders.push(folder)
  cpSync(fixture(family), folder, { recursive: true })
  const change = (file: string, json: object) => {
    const path = join(folder, file)
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...json }))
  }
  change('tokenizer_config.json', { ...changes.settings, chat_template: changes.template })
  if (changes.postProcessor) change('tokenizer.json', { post_processor: changes.postProcessor })
  if (changes.generation) {
    writeFileSync(join(folder, 'generation_config.json'), JSON.stringify(changes.generation))
  }
  return loadTextModel(folder)
}

/** The mark that SentencePiece writes for a space is read as one. */
const anyText = fc.string({ unit: 'grapheme', maxLength: 40 }).filter((text) => !text.includes('▁'))

function decode(model: TextModel, tokens: readonly number[]): string {
  const decoder = model.decoder()
  return tokens.map((token) => decoder.push(token)).join('') + decoder.flush()
}

describe.each([
  ['llama-2', true],
  ['llama-3', false],
  ['mistral', true],
  ['qwen', false],
])('a tokenizer as that of %s', (family, hasSpaceMark) => {
  const { cases }: { cases: GoldenCase[] } = JSON.parse(
    readFileSync(`${fixture(family)}/golden.json`, 'utf8'),
  )
  let model: TextModel
  beforeAll(async () => {
    model = await textModel(family)
  })

  it.each(cases)('gives the tokens of $text', ({ text, tokens, plain }) => {
    expect(model.encode(text, { addSpecialTokens: false })).toEqual(plain)
    expect(model.encode(text)).toEqual(tokens)
  })

  it.each(cases)('reads $text token by token', ({ plain, decoded }) => {
    // An answer goes on from its prompt: the space that a whole text loses at its start stays.
    const text = decode(model, plain)
    expect(hasSpaceMark && text.startsWith(' ') ? text.slice(1) : text).toBe(decoded)
  })

  it('streams any text back, never half a character', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const decoder = model.decoder()
        let out = ''
        for (const token of model.encode(text, { addSpecialTokens: false })) {
          const piece = decoder.push(token)
          expect(piece).not.toMatch(/\p{Surrogate}/u)
          out += piece
        }
        out += decoder.flush()
        // Mistral's puts its mark before a text that does not begin with one.
        const isMarked = hasSpaceMark && text !== '' && !(family === 'mistral' && text.startsWith(' '))
        expect(out).toBe((isMarked ? ' ' : '') + (family === 'qwen' ? text.normalize('NFC') : text))
      }),
      { numRuns: 200 },
    )
  })
})

describe('what a text begins with', () => {
  it.each([
    ['is what tokenizer.json says', 'llama-2', { add_bos_token: undefined }, true],
    ['is left out where a tokenizer of Llama is told so', 'llama-2', { add_bos_token: false }, false],
    [
      'is left alone where another is told so, as by Hugging Face',
      'llama-2',
      { add_bos_token: false, tokenizer_class: 'PreTrainedTokenizerFast' },
      true,
    ],
    ['is there once where both say so', 'llama-2', { add_bos_token: true }, true],
    ['is nothing for Qwen', 'qwen', {}, false],
    [
      'is added where only the settings say so',
      'qwen',
      { add_bos_token: true, bos_token: '<|endoftext|>' },
      true,
    ],
  ])('%s', async (_, family, settings, expected) => {
    const model = await textModel(family, { settings })
    const tokens = model.encode('a')
    expect(tokens.slice(expected ? 1 : 0)).toEqual(model.encode('a', { addSpecialTokens: false }))
    expect(model.encode('')).toEqual(expected ? tokens.slice(0, 1) : [])
  })

  it('is never followed by an end, whatever tokenizer.json and the settings add', async () => {
    const one = (id: string) => ({ SpecialToken: { id, type_id: 0 } })
    const sequence = { Sequence: { id: 'A', type_id: 0 } }
    const postProcessor = {
      type: 'TemplateProcessing',
      single: [one('<s>'), sequence, one('</s>')],
      pair: [one('<s>'), sequence, one('</s>')],
      special_tokens: {
        '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] },
        '</s>': { id: '</s>', ids: [2], tokens: ['</s>'] },
      },
    }
    const model = await textModel('llama-2', { settings: { add_eos_token: true }, postProcessor })
    const plain = model.encode('a', { addSpecialTokens: false })
    expect(plain).not.toContain(2)
    expect(model.encode('a')).toEqual([1, ...plain])
  })
})

it('ends of text come from config.json, generation_config.json and the tokenizer', async () => {
  const model = await textModel('llama-3', { generation: { eos_token_id: [7, 9] } })
  const [end] = model.encode('<|eot_id|>', { addSpecialTokens: false })
  expect(model.stopTokens).toEqual([7, 9, end])
})

describe('chats', () => {
  const messages = [
    { role: 'system', content: 'Be brief. ' },
    { role: 'user', content: ' Who flies?' },
    { role: 'assistant', content: 'Ravens.' },
    { role: 'user', content: 'Where?' },
  ]
  const LLAMA_2 = `{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}`
  const LLAMA_3 = `{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}{{- bos_token }}{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + date_string + '\\n\\n' + system_message + '<|eot_id|>' }}{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}`
  const MISTRAL = `{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}{%- set ns = namespace() %}{%- set ns.index = 0 %}{{- bos_token }}{%- for message in loop_messages %}{%- if message['role'] == 'user' %}{%- if loop.last and system_message is defined %}{{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' }}{%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] | trim + eos_token }}{%- else %}{{- raise_exception('Only user and assistant roles are supported') }}{%- endif %}{%- set ns.index = ns.index + 1 %}{%- endfor %}`
  const QWEN = `{%- if tools %}{{- raise_exception('no tools here') }}{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- else %}{{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}{%- endif %}{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- if ns.multi_step_tool and message.role == 'user' and message.content is string and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}{%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}{%- for message in messages %}{%- if (message.role == 'user') or (message.role == 'system' and not loop.first) %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- elif message.role == 'assistant' %}{{- '<|im_start|>' + message.role + '\\n' + message.content.split('</think>')[-1].lstrip('\\n') + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}`

  it.each([
    [
      'llama-2',
      LLAMA_2,
      '<s>[INST] <<SYS>>\nBe brief. \n<</SYS>>\n\n Who flies? [/INST] Ravens. </s><s>[INST] Where? [/INST]',
    ],
    ['mistral', MISTRAL, '<s>[INST]  Who flies?[/INST] Ravens.</s>[INST] Be brief. \n\nWhere?[/INST]'],
    [
      'qwen',
      QWEN,
      '<|im_start|>system\nBe brief. <|im_end|>\n<|im_start|>user\n Who flies?<|im_end|>\n<|im_start|>assistant\nRavens.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n',
    ],
  ])('of %s are rendered, and their special tokens are tokens', async (family, template, expected) => {
    const model = await textModel(family, { template })
    expect(model.renderChat(messages)).toBe(expected)
    const tokens = model.encodeChat(messages)
    // The template writes what the text begins with: it is there as often as the text has it.
    expect(tokens).toEqual(model.encode(expected, { addSpecialTokens: false }))
    const names: readonly string[] = expected.match(/<\/?s>|<\|[a-z_]+\|>/g) ?? []
    const special = tokens.map((token) => model.tokenText(token)).filter((text) => names.includes(text))
    expect(special).toEqual(names)
  })

  it('of Llama 3 may name the day, which is today', async () => {
    const model = await textModel('llama-3', { template: LLAMA_3 })
    const text = model.renderChat(messages)
    expect(text).toMatch(
      /^<\|begin_of_text\|><\|start_header_id\|>system<\|end_header_id\|>\n\nToday: \d\d [A-Z][a-z]{2} 20\d\d\n\nBe brief.<\|eot_id\|><\|start_header_id\|>user<\|end_header_id\|>\n\nWho flies\?<\|eot_id\|>/,
    )
    expect(text.endsWith('<|start_header_id|>assistant<|end_header_id|>\n\n')).toBe(true)
    expect(model.encodeChat(messages).filter((token) => token === model.encode('')[0])).toHaveLength(1)
  })

  it('that a template refuses are told so', async () => {
    const model = await textModel('llama-2', { template: LLAMA_2 })
    expect(() => model.renderChat([{ role: 'assistant', content: 'first' }])).toThrow('roles must alternate')
  })
})
