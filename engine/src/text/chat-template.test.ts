import { expect, it } from 'vitest'
import { createChatTemplate, templateSource } from './chat-template.js'

const source =
  "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"

it('gives the template the messages, the special tokens and the generation prompt', () => {
  const template = createChatTemplate(source, { bos_token: '<s>' }, 'test-model')
  expect(template.render([{ role: 'user', content: 'hi' }])).toBe('<s>[user]hi[assistant]')
})

it('passes on what the template objects to', () => {
  const template = createChatTemplate(source, {}, 'test-model')
  expect(() => template.render([{ role: 'tool', content: '' }])).toThrow('refused the messages: no tools')
})

it('refuses a template that cannot be parsed', () => {
  expect(() => createChatTemplate('{% for %}', {}, 'test-model')).toThrow(
    'chat template of the model test-model',
  )
})

it('takes the default of several templates', () => {
  const named = [
    { name: 'tool_use', template: 'a' },
    { name: 'default', template: 'b' },
  ]
  expect([templateSource(named), templateSource('c'), templateSource(undefined)]).toEqual([
    'b',
    'c',
    undefined,
  ])
})
