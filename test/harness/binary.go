package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/image-builder-ha/image-builder/faults"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// BinaryVar is the environment variable with the path of a binary of the service
// that tests use instead of compiling one.
const BinaryVar = "IMAGE_BUILDER_BINARY"

// Variant says how the service is compiled. Without the race detector the binary
// is static.
type Variant struct {
	Race   bool // with the race detector
	Faults bool // with the tag faults
}

// dir returns the folder below bin/test that holds the variant's binary.
// tools/test-faults.sh fills one of them.
func (v Variant) dir() string {
	name := "plain"
	switch {
	case v.Race && v.Faults:
		name = "race-faults"
	case v.Race:
		name = "race"
	case v.Faults:
		name = "faults"
	}
	return filepath.Join(testkit.Root(), "bin", "test", name)
}

// withBinary compiles the service and calls use with the path of the binary. The
// file may be replaced once use has returned: use copies or links it.
//
// Linking takes long, so all test processes share one file of each variant: the
// first process links it, the others wait, and the go command finds that the file
// is current. It links the file again when the source has changed.
func withBinary(v Variant, use func(path string) error) error {
	if made := os.Getenv(BinaryVar); made != "" {
		return use(made)
	}
	if err := os.MkdirAll(v.dir(), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(v.dir(), "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close() // unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	path := filepath.Join(v.dir(), "image-builder")
	args := []string{"build", "-o", path}
	env := "CGO_ENABLED=0"
	if v.Race {
		args = append(args, "-race")
		env = "CGO_ENABLED=1"
	}
	if v.Faults {
		args = append(args, "-tags", "faults")
	}
	cmd := exec.Command("go", append(args, "./cmd/image-builder")...)
	cmd.Dir, cmd.Env = testkit.Root(), append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the service: %w\n%s", err, out)
	}
	return use(path)
}

// CopyBinary compiles the service and puts the binary into the file to, which must
// not exist. The environment's IMAGE_BUILDER_BINARY names another binary to use.
func CopyBinary(v Variant, to string) error {
	return withBinary(v, func(path string) error {
		if os.Link(path, to) == nil {
			return nil
		}
		raw, err := os.ReadFile(path) // to is on another disk
		if err != nil {
			return err
		}
		return os.WriteFile(to, raw, 0o755)
	})
}

var (
	binaryOnce sync.Once
	binaryPath string
	binaryErr  error
)

// Binary returns the path of the service's binary, which is compiled as the test
// is: with the race detector and with the tag faults if the test has them. The
// file stays the same until the test process ends, even if another process
// compiles a changed source. TestMain removes it by RemoveBinary. The environment's
// IMAGE_BUILDER_BINARY names another binary to use.
func Binary(t testing.TB) string {
	t.Helper()
	binaryOnce.Do(func() {
		binaryErr = withBinary(Variant{Race: testkit.Race, Faults: faults.Enabled}, func(path string) error {
			binaryPath = path
			if os.Getenv(BinaryVar) != "" {
				return nil
			}
			if err := removeStale(path); err != nil {
				return err
			}
			binaryPath = path + "." + strconv.Itoa(os.Getpid())
			return os.Link(path, binaryPath)
		})
	})
	if binaryErr != nil {
		t.Fatal(binaryErr)
	}
	return binaryPath
}

// RemoveBinary removes the test process's own link to the binary that Binary has
// returned.
func RemoveBinary() {
	if binaryPath != "" && binaryPath != os.Getenv(BinaryVar) {
		_ = os.Remove(binaryPath)
	}
}

// removeStale removes the links of test processes that have ended without
// RemoveBinary.
func removeStale(path string) error {
	links, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	for _, link := range links {
		pid, err := strconv.Atoi(strings.TrimPrefix(link, path+"."))
		if err != nil {
			continue // not a link of Binary
		}
		if pid == os.Getpid() || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			if err := os.Remove(link); err != nil {
				return err
			}
		}
	}
	return nil
}
