/** Exit codes of every command; documented in `kvasir --help`. */
export const EXIT = {
  ok: 0,
  /** The work could not be done; one sentence on stderr says why. */
  failure: 1,
  /** The command line itself is wrong. */
  usage: 2,
  /** Ended by Ctrl-C before the work was done. */
  interrupted: 130,
} as const

export type ExitCode = (typeof EXIT)[keyof typeof EXIT]
