/**
 * How far a study is and how long it may still take, on stderr: a bar that moves on a terminal, else a line every few
 * seconds.
 */
import { MultiBar, Presets } from 'cli-progress'
import { say } from '../terminal.js'

const lineEveryMs = 5_000
/** Of work that takes minutes, fewer lines say as much. */
const longFromMs = 60_000
const lineEveryLongMs = 30_000
const barMin = 8
const barMax = 30
/** What stands beside the bar, about. */
const textCells = 52
/** Before, a share is too small to tell anything from. */
const estimateFromMs = 1_000
const estimateFromShare = 0.03

export interface StudyProgress {
  /** `detail` such as `3 of 16 points`. */
  show(share: number, what: string, detail?: string): void
  say(line: string): void
  close(): void
}

export function studyProgress(): StudyProgress {
  return process.stderr.isTTY ? bar() : lines()
}

/** `about 40 s left`, as if all of it went as what is done; empty while nobody can tell. */
export function timeLeft(share: number, tookMs: number): string {
  if (tookMs < estimateFromMs || share < estimateFromShare || share >= 1) return ''
  return `about ${roughDuration((tookMs / share) * (1 - share))} left`
}

/** 40 s, 3 min, 2 h 10 min. */
function roughDuration(ms: number): string {
  const s = Math.max(1, Math.round(ms / 1_000))
  if (s < 100) return `${s} s`
  const min = Math.round(s / 60)
  if (min < 100) return `${min} min`
  return `${Math.floor(min / 60)} h ${min % 60} min`
}

/** Times each piece of work by itself: what the one before took says nothing about the next. */
class Phase {
  #what: string | undefined
  #beganMs = 0

  tookMs(what: string): number {
    if (what !== this.#what) {
      this.#what = what
      this.#beganMs = performance.now()
    }
    return performance.now() - this.#beganMs
  }
}

function bar(): StudyProgress {
  const multi = new MultiBar(
    {
      format: '{what} |{bar}| {percentage} % {detail}',
      barsize: Math.max(barMin, Math.min(barMax, (process.stderr.columns ?? 0) - textCells)),
      clearOnComplete: true,
      stream: process.stderr,
      gracefulExit: false,
    },
    Presets.shades_classic,
  )
  const phase = new Phase()
  let single: ReturnType<MultiBar['create']> | undefined
  return {
    show(share, what, detail = '') {
      const left = timeLeft(share, phase.tookMs(what))
      const texts = { what, detail: [detail, left].filter((text) => text !== '').join(', ') }
      single ??= multi.create(100, 0, texts)
      single.update(Math.floor(share * 100), texts)
    },
    // Needs its own line end; nothing is shown above a bar before there is one.
    say: (line) => (single === undefined ? say(line) : multi.log(`kvasir: ${line}\n`)),
    close: () => multi.stop(),
  }
}

function lines(): StudyProgress {
  const phase = new Phase()
  let shownMs = performance.now()
  let latest: { share: number; what: string; detail: string } | undefined
  const showLatest = (): void => {
    if (latest === undefined || latest.share >= 1) return
    const { share, what, detail } = latest
    const tookMs = phase.tookMs(what)
    // Rather at this turn of the timer than at the next.
    const everyMs = (tookMs < longFromMs ? lineEveryMs : lineEveryLongMs) * 0.9
    if (performance.now() - shownMs < everyMs) return
    shownMs = performance.now()
    const parts = [`${Math.floor(share * 100)} %`, detail, timeLeft(share, tookMs)]
    say(`${what}: ${parts.filter((text) => text !== '').join(', ')}`)
  }
  // Long points tell nothing for a while; that it still runs is worth a line.
  const timer = setInterval(showLatest, lineEveryMs)
  timer.unref()
  return {
    show(share, what, detail = '') {
      phase.tookMs(what)
      latest = { share, what, detail }
      showLatest()
    },
    say,
    close: () => clearInterval(timer),
  }
}
