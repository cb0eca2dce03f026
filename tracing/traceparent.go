package tracing

import (
	"context"
	"encoding/hex"

	"go.opentelemetry.io/otel/trace"
)

// traceparentLen is that of version 00: 00-TRACE-SPAN-01.
const traceparentLen = 55

// Traceparent answers the recorded span of ctx as W3C trace context writes it
// (https://www.w3.org/TR/trace-context/, version 00), or "" if there is none.
func Traceparent(ctx context.Context) string {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() || !span.SpanContext().IsSampled() {
		return ""
	}
	sc := span.SpanContext()
	return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-01"
}

// Valid reports whether s is what Traceparent answers for some span. What is
// valid never changes: replicas decide by it what they store.
func Valid(s string) bool {
	_, ok := parse(s)
	return ok
}

// TraceID answers the trace id of a traceparent, or "" if it is none.
func TraceID(traceparent string) string {
	if !Valid(traceparent) {
		return ""
	}
	return traceparent[3:35]
}

// parse reads a traceparent of a sampled span.
func parse(s string) (trace.SpanContext, bool) {
	if len(s) != traceparentLen || s[:3] != "00-" || s[35] != '-' || s[52:] != "-01" {
		return trace.SpanContext{}, false
	}
	c := trace.SpanContextConfig{TraceFlags: trace.FlagsSampled, Remote: true}
	if !lowerHex(c.TraceID[:], s[3:35]) || !lowerHex(c.SpanID[:], s[36:52]) {
		return trace.SpanContext{}, false
	}
	sc := trace.NewSpanContext(c)
	return sc, sc.IsValid()
}

// lowerHex decodes lower-case hexadecimal digits: the W3C allows no others.
func lowerHex(to []byte, s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	_, err := hex.Decode(to, []byte(s))
	return err == nil
}
