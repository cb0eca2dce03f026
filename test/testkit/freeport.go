package testkit

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

// The ports are below those that the kernel gives to outgoing connections (32768
// and up on Linux), so that no connection takes one between its choice and its
// use.
const first, count = 14000, 18000

var (
	mu   sync.Mutex
	held []*os.File // locks, kept until the test process ends
)

// FreeAddr returns an address on 127.0.0.1 with the port that FreePort returns.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
}

// FreePort returns a port without a listener. No other call returns the same port, in this test
// process or in another one that still runs. Tests of several packages run at the same time, and a
// port without a listener looks free to all of them.
func FreePort(t testing.TB) int {
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

// reserve locks a file until this process ends. It refuses a second lock by the same process, too,
// because each call opens the file anew.
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
