/**
 * Reads server-sent events: the `data` of each event, as the HTML standard parses them.
 *
 * Bytes may be cut anywhere, inside a character or a line end too. An event without its
 * closing empty line, which is how a broken connection ends, is dropped.
 */

/** Longest event accepted, in UTF-16 units; a server that sends more is broken. */
const eventLengthMax = 16 << 20

export class SseParser {
  private readonly decoder = new TextDecoder()
  private rest = ''
  private data: string[] = []
  private endsWithReturn = false

  /** Data of the events that these bytes complete. */
  push(bytes: Uint8Array): string[] {
    let text = this.decoder.decode(bytes, { stream: true })
    if (this.endsWithReturn && text.startsWith('\n')) text = text.slice(1)
    if (text !== '') this.endsWithReturn = text.endsWith('\r')
    const lines = (this.rest + text).split(/\r\n|\r|\n/)
    this.rest = lines.pop() ?? ''
    if (this.rest.length > eventLengthMax) throw new RangeError('The server sent an event without end.')
    const events: string[] = []
    for (const line of lines) {
      if (line === '') {
        if (this.data.length > 0) events.push(this.data.join('\n'))
        this.data = []
      } else if (line.startsWith('data:')) {
        this.data.push(line.slice(line[5] === ' ' ? 6 : 5))
      }
    }
    return events
  }
}

/** Data of the events of a response body, as they arrive. */
export async function* sseEvents(body: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const parser = new SseParser()
  for await (const bytes of body) yield* parser.push(bytes)
}
