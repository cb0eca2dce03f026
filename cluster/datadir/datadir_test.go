package datadir_test

import (
	"errors"
	"testing"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
)

// Test_Change_StoreIDStays: other goroutines read the store id while a change fails. The race detector
// sees whether the change writes what they read.
func Test_Change_StoreIDStays(t *testing.T) {
	d, err := datadir.Open(t.TempDir(), "n0", true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	id, refused := d.StoreID(), errors.New("refused")
	err = d.Change(func(i *datadir.Identity) error {
		i.StoreID = "other"
		read := make(chan string)
		go func() { read <- d.StoreID() }()
		if got := <-read; got != id {
			t.Errorf("during a change the store id is %q, want %q", got, id)
		}
		return refused
	})
	if !errors.Is(err, refused) || id == "" || d.StoreID() != id || d.Identity().StoreID != id {
		t.Errorf("after a change that failed (%v) the store id is %q, want %q", err, d.StoreID(), id)
	}
}
