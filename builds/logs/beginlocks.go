package logs

import (
	"hash/maphash"
	"sync"
)

// beginLocks serialize the appends that begin incarnations of one copy.
type beginLocks struct {
	seed  maphash.Seed
	locks [64]sync.Mutex
}

func (b *beginLocks) of(key Key) *sync.Mutex {
	return &b.locks[maphash.Comparable(b.seed, key)%uint64(len(b.locks))]
}
