//go:build !faults

package main

import (
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler"
)

func testRuntimes(map[string]scheduler.Runtime, string) {}

func testRuntimeOf(*imagebuilderv1.Source) string { return "" }
