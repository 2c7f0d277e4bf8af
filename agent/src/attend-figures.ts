/** How a decoding sequence's attention went, summed over its steps. */
import type { AttentionUse } from '@kvasir/engine/device-driver'
import type { AttentionFigures } from '@kvasir/proto/kvasir/inference/v1/inference'
import { ATTRIBUTE } from '@kvasir/runtime/telemetry-names'
import type { Attributes } from '@opentelemetry/api'

export class AttentionSums {
  private steps = 0
  private pages = 0
  private pagesRead = 0
  private prepareUs = 0
  private relevancyUs = 0
  private retrievalUs = 0
  private applyUs = 0
  private remoteUs = 0
  private wireBytes = 0

  constructor(private readonly layers: number) {}

  add(use: AttentionUse): void {
    this.steps += 1
    this.pages += use.pages
    this.pagesRead += use.pagesRead
    this.prepareUs += use.prepareUs
    this.relevancyUs += use.relevancyUs
    this.retrievalUs += use.retrievalUs
    this.applyUs += use.applyUs
    this.remoteUs += use.remoteUs
    this.wireBytes += use.wireBytes
  }

  message(): AttentionFigures {
    return {
      calls: BigInt(this.steps * this.layers),
      pages: whole(this.pages),
      pagesRead: whole(this.pagesRead),
      prepareUs: whole(this.prepareUs),
      relevancyUs: whole(this.relevancyUs),
      retrievalUs: whole(this.retrievalUs),
      applyUs: whole(this.applyUs),
      remoteUs: whole(this.remoteUs),
      wireBytes: whole(this.wireBytes),
    }
  }

  attributes(): Attributes {
    return {
      [ATTRIBUTE.attentionPages]: this.pages,
      [ATTRIBUTE.attentionPagesRead]: this.pagesRead,
      [ATTRIBUTE.attentionRemoteUs]: Math.round(this.remoteUs),
      [ATTRIBUTE.attentionWireBytes]: this.wireBytes,
      [ATTRIBUTE.stagePrepareUs]: Math.round(this.prepareUs),
      [ATTRIBUTE.stageRelevancyUs]: Math.round(this.relevancyUs),
      [ATTRIBUTE.stageRetrievalUs]: Math.round(this.retrievalUs),
      [ATTRIBUTE.stageApplyUs]: Math.round(this.applyUs),
    }
  }
}

function whole(value: number): bigint {
  return BigInt(Math.round(value))
}
