/** The Node version that Kvasir needs. Runs on older Node too, so that it can say so. */

const nodeVersionMin = '20.19.0'

/**
 * One sentence when `version` is too old, else undefined.
 * @param {string} version such as 20.19.1
 * @returns {string | undefined}
 */
export function nodeVersionProblem(version) {
  const have = version.split('.').map(Number)
  const need = nodeVersionMin.split('.').map(Number)
  for (let i = 0; i < need.length; i++) {
    const difference = (have[i] || 0) - (need[i] || 0)
    if (difference > 0) return undefined
    if (difference < 0) {
      return `Kvasir needs Node ${nodeVersionMin} or newer and this is ${version}: install a newer Node, then try again.`
    }
  }
  return undefined
}
