package logs

import "hash/maphash"

// beginLocks serialize the appends that begin incarnations of one copy.
type beginLocks struct {
	seed  maphash.Seed
	locks [64]lock
}

func newBeginLocks() beginLocks {
	b := beginLocks{seed: maphash.MakeSeed()}
	for i := range b.locks {
		b.locks[i] = newLock()
	}
	return b
}

func (b *beginLocks) of(key Key) lock {
	return b.locks[maphash.Comparable(b.seed, key)%uint64(len(b.locks))]
}
