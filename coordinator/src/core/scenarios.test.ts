/**
 * Scenarios a person can read: each file holds the events and what the core did.
 * A change of behaviour shows as a change of the transcript (`vitest -u` rewrites them).
 */
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { playTranscript } from './testing/transcript.js'

const folder = new URL('scenarios/', import.meta.url)
const files = readdirSync(folder).filter((name) => name.endsWith('.txt'))

describe('scenarios', () => {
  test('exist', () => {
    expect(files.length).toBeGreaterThan(5)
  })
  test.each(files)('%s', async (name) => {
    const path = new URL(name, folder)
    await expect(playTranscript(readFileSync(path, 'utf8'))).toMatchFileSnapshot(path.pathname)
  })
})
