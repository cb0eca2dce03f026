// Render writes deploy/kubernetes/image-builder.yaml from the chart.
package main

import (
	"fmt"
	"os"

	"github.com/image-builder-ha/image-builder/tools/deploytest"
)

func main() {
	text, err := deploytest.PlainManifests(deploytest.Root)
	if err == nil {
		err = os.WriteFile(deploytest.Root+"/kubernetes/image-builder.yaml", []byte(text), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
