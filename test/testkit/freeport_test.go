package testkit_test

import (
	"net"
	"testing"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

func Test_FreePort_IsUnique(t *testing.T) {
	seen := map[int]bool{}
	for range 2000 { // of 18,000: without reservations some would be returned twice
		p := testkit.FreePort(t)
		if seen[p] {
			t.Fatalf("port %d was returned twice", p)
		}
		seen[p] = true
	}
}

func Test_FreeAddr_HasNoListener(t *testing.T) {
	l, err := net.Listen("tcp", testkit.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}
