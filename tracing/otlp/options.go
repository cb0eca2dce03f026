package otlp

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options configure a Provider.
type Options struct {
	// Endpoint is the address of the collector's OTLP port for gRPC, host:port.
	Endpoint string
	// TLS encrypts the connection; plain text if nil.
	TLS *TLS
	// Ratio is the fraction of the traces that begin in this process and are recorded, 0 to 1. A
	// trace of a caller is recorded if the caller records it.
	Ratio float64
	// Node and Version identify this process in the spans.
	Node, Version string
	// Registerer receives the metrics of the export. Required.
	Registerer prometheus.Registerer
	// Logger receives a message when the export begins to fail, and when it works again. Required.
	Logger *slog.Logger
}

// Limits of the export. Spans are dropped if the queue is full, or if the collector does not accept
// their batch in time.
const (
	queueSpans    = 8192
	batchSpans    = 512
	batchInterval = time.Second
	exportTimeout = 10 * time.Second
	// maxValue is the greatest length of an attribute's value, in bytes. Longer values are truncated.
	maxValue = 512
)
