//go:build !faults

package node

import (
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

func addFaultRuntime(map[string]workload.Runtime, string) {}

func faultRuntimeOf(*imagebuilderv1.Source) string { return "" }
