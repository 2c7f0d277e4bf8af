/** Codes of RFC 9113, section 7, and what a connection ends with when its peer breaks the protocol. */

export const H2 = {
  none: 0,
  protocol: 1,
  internal: 2,
  flowControl: 3,
  frameSize: 6,
  refused: 7,
  cancel: 8,
  compression: 9,
  calm: 11,
} as const

export class Http2Error extends Error {
  constructor(
    readonly code: number,
    message: string,
  ) {
    super(message)
  }
}
