package tracing_test

import (
	"testing"

	"github.com/image-builder-ha/image-builder/tracing"
)

// Test_HandOver: what is no trace context is not put into any call. That one is,
// Test_Tracing_Dockerfile of package test shows.
func Test_HandOver(t *testing.T) {
	for s, want := range map[string]bool{
		parent:               true,
		parent[:53] + "00":   true, // the caller does not record: neither shall others
		"":                   false,
		"x\n":                false,
		parent[:40]:          false,
		"ff" + parent[2:]:    false,
		parent + "\r\nx: y":  false,
		"00-" + parent[3:35]: false,
	} {
		if got := len(tracing.HandOver(s)) > 0; got != want {
			t.Errorf("%q is handed over: %t", s, got)
		}
	}
	if tracing.ServerOption(nil) != nil || tracing.DialOption(nil) != nil {
		t.Error("no provider has options")
	}
}
