/** InferenceService as gRPC sees it. */
import type { InferenceServiceServer } from '@kvasir/proto/kvasir/inference/v1/inference'
import { serverStream } from '@kvasir/runtime/rpc-server'
import { runDecode } from './decode-job.js'
import type { Device } from './device.js'
import { runPrefill } from './prefill-job.js'

export function inferenceService(device: Device): InferenceServiceServer {
  return {
    prefill: serverStream((request, call, send) => runPrefill(device, request, call, send)),
    decode: serverStream((request, call, send) => runDecode(device, request, call, send)),
  }
}
