//go:build !faults

package main

import "github.com/image-builder-ha/image-builder/builds/logs"

func testFS() logs.FS { return nil }
