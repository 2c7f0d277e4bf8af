/**
 * Attributes of the root span beyond those of Kvasir and GenAI: OpenTelemetry's HTTP
 * conventions, and the two times of an answer under the names of the GenAI metrics.
 */
export const SERVER_ATTRIBUTE = {
  httpMethod: 'http.request.method',
  httpRoute: 'http.route',
  httpStatus: 'http.response.status_code',
  errorType: 'error.type',
  ttftMs: 'kvasir.ttft_ms',
  tpotMs: 'kvasir.tpot_ms',
} as const
