package freeport_test

import (
	"net"
	"testing"

	"github.com/image-builder-ha/image-builder/test/freeport"
)

func Test_Port_IsAnsweredOnce(t *testing.T) {
	seen := map[int]bool{}
	for range 2000 { // of 18,000: without reservations some would come twice
		p := freeport.Port(t)
		if seen[p] {
			t.Fatalf("port %d was answered twice", p)
		}
		seen[p] = true
	}
}

func Test_Addr_CanBeListenedOn(t *testing.T) {
	l, err := net.Listen("tcp", freeport.Addr(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}
