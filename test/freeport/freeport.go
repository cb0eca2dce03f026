// Package freeport chooses ports on loopback for processes that tests start.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// Ports below those that the kernel gives to outgoing connections (32768 and
// up on Linux), so that no connection takes one between its choice and its use.
const first, count = 14000, 18000

var (
	mu   sync.Mutex
	held []*os.File // locks, kept until the test process ends
)

// Addr answers 127.0.0.1 with a port that nobody listens on and that no other
// call answers, in this test process or in another one that still runs: tests
// of several packages run at once, and a port that is not yet listened on
// looks free to all of them.
func Addr(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(Port(t)))
}

// Port is the port of such an address.
func Port(t testing.TB) int {
	t.Helper()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("image-builder-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for range 1000 {
		port := first + rand.IntN(count)
		if reserve(filepath.Join(dir, strconv.Itoa(port))) && unused(port) {
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// reserve locks a file for as long as this process lives. A second lock by the
// same process is refused too, since each opens the file anew.
func reserve(file string) bool {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		_ = f.Close()
		return false
	}
	held = append(held, f)
	return true
}

func unused(port int) bool {
	for _, host := range []string{"127.0.0.1", ""} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}
