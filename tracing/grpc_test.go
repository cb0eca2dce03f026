package tracing_test

import (
	"testing"

	"github.com/image-builder-ha/image-builder/tracing"
)

// Test_HandOver checks that an invalid trace context does not get into calls.
// Test_Tracing_Dockerfile of package test checks that a valid one does.
func Test_HandOver(t *testing.T) {
	for s, want := range map[string]bool{
		parent:               true,
		parent[:53] + "00":   true, // the caller does not record, so that no other process may
		"":                   false,
		"x\n":                false,
		parent[:40]:          false,
		"ff" + parent[2:]:    false,
		parent + "\r\nx: y":  false,
		"00-" + parent[3:35]: false,
	} {
		if got := len(tracing.HandOver(s)) > 0; got != want {
			t.Errorf("options for %q: %t, want %t", s, got, want)
		}
	}
	if tracing.ServerOption(nil) != nil || tracing.DialOption(nil) != nil {
		t.Error("there are options without a provider")
	}
}
