//go:build !faults

package node

import "github.com/image-builder-ha/image-builder/builds/logs"

func testFS() logs.FS { return nil }
