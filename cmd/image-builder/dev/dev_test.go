package dev

import (
	"strings"
	"testing"
)

// Test_Lock checks that a second dev cannot use the data directory of the first one.
func Test_Lock(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil || !strings.Contains(err.Error(), dir+" is used by another") {
		t.Errorf("a second one: %v", err)
	}
	unlock()
	if unlock, err = lock(dir); err != nil {
		t.Fatalf("after the end of the first one: %v", err)
	}
	unlock()
}
