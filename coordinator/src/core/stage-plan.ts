/**
 * Places the stages of a memory pipeline (He et al., arXiv 2603.29002: prepare, relevancy,
 * retrieval, apply) on devices, by predicted time with every transfer charged.
 *
 * A pipeline is a chain: each stage takes what the one before it gives, and inputs that lie
 * somewhere already. A stage that stays where the one before it ran saves the transfer between
 * them. The chain makes dynamic programming exact: no other choice of devices is predicted to be
 * faster, and of equal ones the option listed first is taken.
 */

export type StageName = 'prepare' | 'relevancy' | 'retrieval' | 'apply'

/** Devices that could run a stage together, and the time it would take on them. */
export interface StageOption {
  readonly devices: readonly string[]
  /** Of the stage alone, milliseconds: its inputs are there, its output stays there. */
  readonly computeMs: number
}

/** Something that a stage needs and that the stage before it does not give. */
export interface StageInput {
  /** Where it lies. */
  readonly device: string
  readonly bytes: number
  /** Its share of something that is moved beforehand, so that this run does not wait for a link's latency. */
  readonly isBulk?: boolean
}

export interface Stage {
  readonly name: StageName
  /** What it is here, such as "BM25 over 2 shards". */
  readonly what: string
  /** At least one, in order of preference. */
  readonly options: readonly StageOption[]
  readonly inputs: readonly StageInput[]
  /** What it hands to the next stage, or to where the result is wanted. */
  readonly outputBytes: number
  /** Runs in one call with the stage before it, whose options are the same: it stays where that one is. */
  readonly isJoined?: boolean
  /** Whether an option can follow one of the stage before it; every one can where this is absent. */
  canFollow?(before: number, option: number): boolean
}

export interface Pipeline {
  readonly stages: readonly Stage[]
  /** Where the last stage's output is wanted; null where it may stay. */
  readonly resultAt: string | null
  /** Milliseconds to move so many bytes; not asked for one device to itself. */
  transferMs(from: string, to: string, bytes: number, isBulk: boolean): number
}

export interface PlannedStage {
  readonly stage: StageName
  readonly what: string
  readonly devices: readonly string[]
  readonly computeMs: number
  /** Moving its inputs to it; the last stage's also includes moving the result to where it is wanted. */
  readonly transferMs: number
  readonly transferBytes: number
  /** The best plan that runs this stage elsewhere. */
  readonly alternative: { readonly devices: readonly string[]; readonly pipelineMs: number } | null
  readonly reason: string
}

export interface StagePlan {
  readonly stages: readonly PlannedStage[]
  readonly totalMs: number
  /** The best plan that differs in at least one stage. */
  readonly runnerUp: {
    readonly devices: readonly (readonly string[])[]
    readonly totalMs: number
  } | null
}

/** Throws RangeError for a stage without options, or a joined one that follows nothing alike. */
export function planStages(pipeline: Pipeline): StagePlan {
  check(pipeline)
  const best = bestChoice(pipeline, () => true)
  const totalMs = choiceMs(pipeline, best)
  const others = pipeline.stages.map((_stage, at) => {
    const elsewhere = bestChoice(pipeline, (stage, option) => stage !== at || option !== best[at])
    return elsewhere.length > 0 ? { choice: elsewhere, totalMs: choiceMs(pipeline, elsewhere) } : null
  })
  const stages = pipeline.stages.map((stage, at): PlannedStage => {
    const { devices, computeMs } = optionAt(pipeline, at, best)
    const other = others[at]
    const alternative = other
      ? { devices: optionAt(pipeline, at, other.choice).devices, pipelineMs: other.totalMs }
      : null
    return {
      stage: stage.name,
      what: stage.what,
      devices,
      computeMs,
      ...transferInto(pipeline, at, best),
      alternative,
      reason: reasonFor(pipeline, at, best, totalMs, alternative),
    }
  })
  const runnerUp = others.reduce((nearest, other) => {
    return other && (!nearest || other.totalMs < nearest.totalMs) ? other : nearest
  }, null)
  return {
    stages,
    totalMs,
    runnerUp: runnerUp && {
      devices: pipeline.stages.map((_stage, at) => optionAt(pipeline, at, runnerUp.choice).devices),
      totalMs: runnerUp.totalMs,
    },
  }
}

/** Predicted time of the whole pipeline when stage i takes its option `choice[i]`, milliseconds. */
export function choiceMs(pipeline: Pipeline, choice: readonly number[]): number {
  return pipeline.stages.reduce((sumMs, _stage, at) => {
    return sumMs + optionAt(pipeline, at, choice).computeMs + transferInto(pipeline, at, choice).transferMs
  }, 0)
}

/**
 * The option of each stage in the fastest plan among those that `allows` leaves; empty where it leaves none.
 * Viterbi's algorithm: for every option of a stage the fastest way to it.
 */
function bestChoice(
  pipeline: Pipeline,
  allows: (stage: number, option: number) => boolean,
): readonly number[] {
  let ways: { readonly ms: number; readonly choice: readonly number[] }[] = [{ ms: 0, choice: [] }]
  pipeline.stages.forEach((stage, at) => {
    const longer: typeof ways = []
    stage.options.forEach((option, index) => {
      if (!allows(at, index)) return
      let fastest: (typeof ways)[number] | undefined
      for (const way of ways) {
        if (at > 0 && !follows(stage, way.choice[at - 1] ?? 0, index)) continue
        const choice = [...way.choice, index]
        const ms = way.ms + option.computeMs + transferInto(pipeline, at, choice).transferMs
        if (!fastest || ms < fastest.ms) fastest = { ms, choice }
      }
      if (fastest) longer.push(fastest)
    })
    ways = longer
  })
  let best: (typeof ways)[number] | undefined
  for (const way of ways) if (!best || way.ms < best.ms) best = way
  return best?.choice ?? []
}

/** Whether a stage may take this option after that of the stage before it. */
export function follows(stage: Stage, before: number, option: number): boolean {
  return (!stage.isJoined || before === option) && stage.canFollow?.(before, option) !== false
}

/** What must be moved before stage `at` can run, one after the other; with the result's way after the last stage. */
function transferInto(
  pipeline: Pipeline,
  at: number,
  choice: readonly number[],
): { readonly transferMs: number; readonly transferBytes: number } {
  const stage = pipeline.stages[at]
  if (!stage) return { transferMs: 0, transferBytes: 0 }
  const { devices } = optionAt(pipeline, at, choice)
  const before = pipeline.stages[at - 1]
  const moves = stage.inputs.map(({ device, bytes, isBulk = false }) => {
    return { from: [device], to: devices, bytes, isBulk }
  })
  // A joined stage finds on each of its devices what that device has just made.
  if (before && !stage.isJoined) {
    const from = [...optionAt(pipeline, at - 1, choice).devices]
    moves.push({ from, to: devices, bytes: before.outputBytes, isBulk: false })
  }
  if (pipeline.resultAt !== null && at === pipeline.stages.length - 1) {
    moves.push({ from: [...devices], to: [pipeline.resultAt], bytes: stage.outputBytes, isBulk: false })
  }
  let transferMs = 0
  let transferBytes = 0
  for (const { from, to, bytes, isBulk } of moves) {
    // Several devices send or receive side by side: the slowest pair counts.
    let slowestMs = 0
    for (const source of from) {
      for (const target of to) {
        if (source === target || bytes === 0) continue
        slowestMs = Math.max(slowestMs, pipeline.transferMs(source, target, bytes, isBulk))
        transferBytes += bytes
      }
    }
    transferMs += slowestMs
  }
  return { transferMs, transferBytes }
}

function optionAt(pipeline: Pipeline, at: number, choice: readonly number[]): StageOption {
  const option = pipeline.stages[at]?.options[choice[at] ?? -1]
  if (!option) throw new RangeError(`Stage ${at} of a pipeline has no option ${choice[at]}.`)
  return option
}

function check({ stages }: Pipeline): void {
  stages.forEach((stage, at) => {
    if (stage.options.length === 0) throw new RangeError(`No device can run the stage "${stage.what}".`)
    const isReached = stage.options.some((_option, index) => {
      return at === 0 || stages[at - 1]?.options.some((_before, before) => follows(stage, before, index))
    })
    if (!isReached)
      throw new RangeError(`No device can run the stage "${stage.what}" after the one before it.`)
    if (stage.isJoined && stages[at - 1]?.options.length !== stage.options.length) {
      throw new RangeError(`The stage "${stage.what}" does not have the options of the one that it joins.`)
    }
  })
}

function reasonFor(
  pipeline: Pipeline,
  at: number,
  choice: readonly number[],
  totalMs: number,
  alternative: PlannedStage['alternative'],
): string {
  const here = listOf(optionAt(pipeline, at, choice).devices)
  if (pipeline.stages[at]?.isJoined) {
    return `Runs on ${here} in one call with the stage before it.`
  }
  if (!alternative) return `${here} alone can run it.`
  const elsewhere = `with it on ${listOf(alternative.devices)}, ${msText(alternative.pipelineMs)}`
  return `With this stage on ${here} all stages together are predicted to take ${msText(totalMs)}; ${elsewhere}.`
}

function listOf(devices: readonly string[]): string {
  return devices.join(' and ')
}

function msText(ms: number): string {
  return `${Number(ms.toPrecision(3))} ms`
}
