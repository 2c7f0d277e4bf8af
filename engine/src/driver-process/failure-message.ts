/** Errors as messages of the driver's protocol, and back. */
import type { Failure } from '@kvasir/proto/kvasir/driver/v1/driver'
import { errorOf, isErrorCode, KvasirError } from '@kvasir/runtime/errors'

export function failureMessage(thrown: unknown): Failure {
  const { code, message, param = '' } = KvasirError.from(thrown)
  return { code, message, param }
}

export function errorOfFailure({ code, message, param }: Failure): KvasirError {
  const sentence = message === '' ? 'The device failed and did not say why.' : message
  return errorOf(isErrorCode(code) ? code : 'internal', sentence, param === '' ? {} : { param })
}
