/**
 * What stands in the blocks of a device that does not exist, for tests of the agent core: whoever
 * writes says which text and how many tokens, whoever reads checks that it is still there.
 *
 * A text is an endless row of tokens, known by a number. Texts of one pair have their first pages
 * in common. The model is taken to go on with the text, so that generated pages are pages of it too.
 */

/** Pages that two texts of a pair have in common. */
const COMMON_PAGES = 2

const PAGE_TOKENS = 16

export interface BlockContent {
  readonly label: string
  /** Leading tokens of the page that are in place. */
  readonly tokens: number
}

/** Names a page's content and all before it, as its hash does. */
export function pageLabel(text: number, page: number): string {
  return page < COMMON_PAGES ? `pair-${text >> 1}/${page}` : `text-${text}/${page}`
}

/** Of the full pages among `tokens` tokens. */
export function pageLabels(text: number, tokens: number): string[] {
  return Array.from({ length: Math.floor(tokens / PAGE_TOKENS) }, (_, page) => pageLabel(text, page))
}

export class BlockContents {
  private readonly blocks = new Map<number, BlockContent>()

  /** Tokens `from` … `to`−1 of a text are written; `label` names its pages. `blocks` begin with page `firstPage`. */
  write(
    blocks: readonly number[],
    firstPage: number,
    label: (page: number) => string,
    from: number,
    to: number,
  ): void {
    for (let page = Math.floor(from / PAGE_TOKENS); page * PAGE_TOKENS < to; page += 1) {
      const block = blocks[page - firstPage]
      if (block === undefined) throw new Error(`Page ${page} has no block to be written to`)
      this.blocks.set(block, { label: label(page), tokens: Math.min(PAGE_TOKENS, to - page * PAGE_TOKENS) })
    }
  }

  /** Throws where the first `tokens` tokens of a text are not in the blocks any more. */
  check(
    blocks: readonly number[],
    firstPage: number,
    label: (page: number) => string,
    tokens: number,
    who: string,
  ): void {
    for (let page = firstPage; page * PAGE_TOKENS < tokens; page += 1) {
      const block = blocks[page - firstPage] ?? -1
      const content = this.blocks.get(block)
      const needed = Math.min(PAGE_TOKENS, tokens - page * PAGE_TOKENS)
      if (content?.label === label(page) && content.tokens >= needed) continue
      const found = content === undefined ? 'nothing' : `${content.tokens} tokens of ${content.label}`
      throw new Error(`${who}: block ${block} holds ${found} instead of ${needed} tokens of ${label(page)}`)
    }
  }

  copy(from: readonly number[], to: readonly number[]): void {
    const contents = from.map((block) => this.blocks.get(block))
    for (const block of from) this.blocks.delete(block)
    for (const [index, content] of contents.entries()) {
      const block = to[index]
      if (block === undefined || content === undefined) throw new Error('A block without content was moved')
      this.blocks.set(block, content)
    }
  }
}
