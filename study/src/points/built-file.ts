/**
 * Which file a module's URL stands for. Worker threads load what was built; tests run from the sources, where a URL made
 * from `import.meta.url` names a file that only the build has.
 */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** For a worker thread: the built file. */
export function builtFile(module: URL): URL {
  if (existsSync(fileURLToPath(module))) return module
  const at = module.href.lastIndexOf('/src/')
  return at < 0
    ? module
    : new URL(`${module.href.slice(0, at)}/dist/${module.href.slice(at + '/src/'.length)}`)
}

/** For this thread: the source where this runs from sources. */
export function loadableFile(module: URL): URL {
  if (existsSync(fileURLToPath(module))) return module
  const source = new URL(module.href.replace(/\.js$/, '.ts'))
  return existsSync(fileURLToPath(source)) ? source : module
}
