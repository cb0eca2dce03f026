package peer

import (
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
)

// Test_Open_NeedsTheNode: logs that are opened before the node exists are refused. They would fail
// later, when they copy or read.
func Test_Open_NeedsTheNode(t *testing.T) {
	for name, o := range map[string]Options{
		"no name":        {StoreID: "s", Conn: noConn},
		"no store id":    {Node: "n", Conn: noConn},
		"no connections": {Node: "n", StoreID: "s"},
	} {
		o.State, o.Store = builds.NewStore(), logs.Options{Dir: t.TempDir()}
		if l, err := Open(o); err == nil {
			t.Errorf("%s: the logs are open: %v", name, l.Close())
		}
	}
}
