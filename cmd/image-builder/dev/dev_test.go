package dev

import (
	"strings"
	"testing"
)

// Test_LockDev: a second dev is kept from the data of the first.
func Test_LockDev(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDev(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDev(dir); err == nil || !strings.Contains(err.Error(), dir+" is used by another") {
		t.Errorf("a second one: %v", err)
	}
	unlock()
	if unlock, err = lockDev(dir); err != nil {
		t.Fatalf("after the first one's end: %v", err)
	}
	unlock()
}
