package node

import (
	"errors"
	"io"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/scheduler/copy"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

// openRuntimes opens the runtimes of the configuration, unless Parts.Runtimes is set. After an
// error n.runtimes holds those that were opened.
func (n *Node) openRuntimes() error {
	if n.runtimes = n.parts.Runtimes; n.runtimes != nil {
		return nil
	}
	n.runtimes = map[string]workload.Runtime{copy.Name: copy.New(registryAdapter{n.registry})}
	addFaultRuntime(n.runtimes, copy.Name)
	bk, err := n.openBuildKit()
	if err != nil {
		return err
	}
	if bk != nil {
		n.runtimes[buildkit.Name] = bk
	}
	ws, err := n.openWSManager()
	if err != nil {
		return err
	}
	if ws != nil {
		n.runtimes[wsmanager.Name] = ws
	}
	pods, err := n.openKubernetes()
	if err != nil {
		return err
	}
	if pods != nil {
		n.runtimes[kubernetes.Name] = pods
	}
	return nil
}

// closeRuntimes closes the runtimes that implement io.Closer.
func (n *Node) closeRuntimes() (err error) {
	for _, r := range n.runtimes {
		if c, ok := r.(io.Closer); ok {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}

// runtimeOf returns the name of the runtime for a source, or "" if no runtime is configured.
func (n *Node) runtimeOf(src *imagebuilderv1.Source) string {
	if n.parts.RuntimeOf != nil {
		return n.parts.RuntimeOf(src)
	}
	if name := faultRuntimeOf(src); name != "" {
		return name
	}
	if src.GetRef() != nil {
		return n.cfg.Runtimes.Ref
	}
	return n.cfg.Runtimes.Dockerfile
}

// adoptable reports whether workloads of a runtime outlive their node, so that the next owner can
// adopt them.
func (n *Node) adoptable(runtime string) bool {
	rt := n.runtimes[runtime]
	return rt != nil && rt.Survives()
}
