//go:build !faults

package node

import "github.com/image-builder-ha/image-builder/builds/logs"

func faultLogFS() logs.FS { return nil }
