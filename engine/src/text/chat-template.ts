/** A model's chat template: messages to prompt text. */
import { Template } from '@huggingface/jinja'
import { InvalidInputError, messageOf, UnsupportedError } from '@kvasir/runtime/errors'

export interface ChatMessage {
  readonly role: string
  readonly content: string
}

export interface ChatTemplate {
  /** Throws InvalidInputError when the template refuses the messages. */
  render(messages: readonly ChatMessage[]): string
}

/** `source` is Jinja text; `specialTokens` such as `bos_token` are visible to it. */
export function createChatTemplate(
  source: string,
  specialTokens: Readonly<Record<string, string>>,
  modelName: string,
): ChatTemplate {
  let template: Template
  try {
    template = new Template(source)
  } catch (error) {
    throw new UnsupportedError(
      `The chat template of the model ${modelName} cannot be read (${messageOf(error)}); use /v1/completions with it.`,
    )
  }
  return {
    render(messages) {
      try {
        return template.render({
          ...specialTokens,
          messages: messages.map((message) => ({ ...message })),
          add_generation_prompt: true,
        })
      } catch (error) {
        throw new InvalidInputError(
          `The chat template of the model ${modelName} refused the messages: ${messageOf(error)}`,
          { param: 'messages', cause: error },
        )
      }
    },
  }
}

/** The template in tokenizer_config.json: one text, or a list of named ones of which `default` counts. */
export function templateSource(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  if (!Array.isArray(value)) return undefined
  const named = value.find((entry) => entry?.name === 'default') ?? value[0]
  return typeof named?.template === 'string' ? named.template : undefined
}
