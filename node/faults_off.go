//go:build !faults

package node

import (
	"github.com/image-builder-ha/image-builder/builds/logs"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Without the build tag faults, as in every released binary, the node has no fault points: the logs
// of builds use the file system of the machine, and there is no runtime for tests.

func faultLogFS() logs.FS { return nil }

func addFaultRuntime(map[string]workload.Runtime, string) {}

func faultRuntimeOf(*imagebuilderv1.Source) string { return "" }
