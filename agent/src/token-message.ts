/** A sampled token as it travels. */
import type { SampledToken } from '@kvasir/engine/sampler'
import type { Token } from '@kvasir/proto/kvasir/inference/v1/inference'

export function tokenMessage({ id, logprob, top, nearTie }: SampledToken, index: number): Token {
  return { index, id, logprob, top: top.map((alternative) => ({ ...alternative })), nearTie }
}
