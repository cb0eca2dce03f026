package testkit

import (
	"path/filepath"
	"runtime"
)

// Root returns the folder of this module's source.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// File returns the path of a file of this module, by its path from the root.
func File(path string) string { return filepath.Join(Root(), filepath.FromSlash(path)) }
