package tracing

import (
	"context"
	"encoding/hex"

	"go.opentelemetry.io/otel/trace"
)

// traceparentLen is the length of a traceparent of version 00: 00-TRACE-SPAN-01.
const traceparentLen = 55

// Traceparent returns the traceparent of the recorded span of ctx, as in the W3C trace context
// (https://www.w3.org/TR/trace-context/, version 00), or "" if there is none.
func Traceparent(ctx context.Context) string {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() || !span.SpanContext().IsSampled() {
		return ""
	}
	sc := span.SpanContext()
	return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-01"
}

// Valid reports whether s is a traceparent as Traceparent returns it. The result for a given s must
// never change between versions, because replicas use it to decide what they store.
func Valid(s string) bool {
	_, ok := parse(s)
	return ok
}

// TraceID returns the trace id of a traceparent, or "" if it is not valid.
func TraceID(traceparent string) string {
	if !Valid(traceparent) {
		return ""
	}
	return traceparent[3:35]
}

// parse parses the traceparent of a sampled span.
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

// lowerHex decodes lower-case hexadecimal digits. The W3C trace context allows no other digits.
func lowerHex(to []byte, s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	_, err := hex.Decode(to, []byte(s))
	return err == nil
}
