package peer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// damagedCopy means that the copy of a log on one node is damaged or missing. It wraps
// ErrLogDamaged.
type damagedCopy struct{ text string }

func (e *damagedCopy) Error() string { return e.text }
func (e *damagedCopy) Unwrap() error { return builds.ErrLogDamaged }

// damagedOn returns a damagedCopy. Its text begins with the name of the node.
func damagedOn(node string, err error) error {
	begin := "node " + node + ": "
	return &damagedCopy{begin + strings.TrimPrefix(err.Error(), begin)}
}

// gone returns a damagedCopy if the state shows that a copy cannot be read any more: its node was
// removed from the cluster, or has another data directory.
func (l *Logs) gone(c *imagebuilderv1.LogCopy) error {
	switch n := l.opts.State.View().Node(c.Node); {
	case n == nil:
		return damagedOn(c.Node, errors.New("it was removed from the cluster, with its copy"))
	case n.StoreId != c.StoreId:
		return damagedOn(c.Node, fmt.Errorf("it has a new data directory, without its copy of the former one (store id %s)", c.StoreId))
	}
	return nil
}

// joined returns the texts of errors on one line.
func joined(errs []error) string {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}
