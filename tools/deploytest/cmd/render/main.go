// Render renders the chart into the files of deploy/kubernetes.
package main

import (
	"fmt"
	"os"

	"github.com/image-builder-ha/image-builder/tools/deploytest"
)

func main() {
	for file := range deploytest.PlainFiles {
		text, err := deploytest.PlainManifests(deploytest.Root, file)
		if err == nil {
			err = os.WriteFile(deploytest.Root+"/kubernetes/"+file, []byte(text), 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
