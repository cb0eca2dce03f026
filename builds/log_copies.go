package builds

import (
	"github.com/image-builder-ha/image-builder/faults"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// CopiesOf returns the copies of the log of an attempt. If the state names none, the owner holds
// the only one.
func CopiesOf(a *imagebuilderv1.Attempt) []*imagebuilderv1.LogCopy {
	if c := a.GetLog().GetCopies(); len(c) > 0 {
		return c
	}
	return []*imagebuilderv1.LogCopy{{Node: a.GetOwner(), StoreId: a.GetOwnerStoreId()}}
}

// HasCopy reports whether one of the copies is in the data directory storeID of a node.
func HasCopy(copies []*imagebuilderv1.LogCopy, node, storeID string) bool {
	for _, c := range copies {
		if c.Node == node && (c.StoreId == storeID || faults.Mutant("copies-without-store-id")) {
			return true
		}
	}
	return false
}

// sameCopies reports whether a and b name the same copies, in any order.
func sameCopies(a, b []*imagebuilderv1.LogCopy) bool {
	if len(a) != len(b) {
		return false
	}
	for _, c := range a {
		if !HasCopy(b, c.Node, c.StoreId) {
			return false
		}
	}
	return true
}
