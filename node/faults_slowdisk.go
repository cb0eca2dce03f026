//go:build faults

package node

import (
	"os"

	"github.com/image-builder-ha/image-builder/faults"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// slowFS delays fsyncs of files while a fault is in force.
type slowFS struct{ logs.FS }

func (f slowFS) OpenFile(name string, flag int, perm os.FileMode) (logs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return slowFile{file}, nil
}

type slowFile struct{ logs.File }

func (f slowFile) Sync() error {
	faults.LogSync()
	return f.File.Sync()
}
