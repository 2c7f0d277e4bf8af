/**
 * The versions that processes tell each other.
 *
 * Every gRPC call and every advertisement carries the protocol version. A process of
 * version N serves peers of versions N−1 and N, so a cluster is upgraded one process
 * at a time.
 */
import { readFileSync } from 'node:fs'

/** What this build speaks. */
export const PROTOCOL_VERSION = 1
/** The oldest version this build still serves. */
export const PROTOCOL_VERSION_MIN = 1
/** gRPC metadata key that carries the version. */
export const PROTOCOL_METADATA = 'kvasir-protocol'

/** Version of the software, as in the package. */
export const SOFTWARE_VERSION: string = readPackageVersion()

/** Whether a peer's version can be served; undefined or not a whole number means that none was told. */
export function protocolSupported(version: number | undefined): boolean {
  return version !== undefined && version >= PROTOCOL_VERSION_MIN && version <= PROTOCOL_VERSION
}

function readPackageVersion(): string {
  // The same relative path from src/ and from dist/.
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8')
  const parsed: unknown = JSON.parse(text)
  const version = typeof parsed === 'object' && parsed !== null && 'version' in parsed ? parsed.version : ''
  return String(version)
}
