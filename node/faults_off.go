//go:build !faults

package node

import (
	"github.com/image-builder-ha/image-builder/builds/logs"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

func faultLogFS() logs.FS { return nil }

func addFaultRuntime(map[string]workload.Runtime, string) {}

func faultRuntimeOf(*imagebuilderv1.Source) string { return "" }
