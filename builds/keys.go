package builds

import buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"

// pairKey joins two strings to a key. No two pairs have the same key, because validation refuses
// NUL in both strings.
func pairKey(a, b string) string { return a + "\x00" + b }

// orderKeyLen is the length of an order key.
const orderKeyLen = 16

// orderKey encodes a number so that the order of the bytes is that of the numbers.
func orderKey(n uint64) string {
	var key [orderKeyLen]byte
	for i := range key {
		key[i] = "0123456789abcdef"[n>>(60-4*i)&0xf]
	}
	return string(key[:])
}

// createdKey returns the key of a record in the order of creation: that of the commands in the
// replicated log, whatever the clocks of their leaders were. Records without an index come first,
// by id.
func createdKey(r *buildsv1.Record) string { return orderKey(r.CreatedIndex) + r.Build.Id }

// laneKey returns the prefix of the keys of a lane.
func laneKey(k Kind, requester string) string { return string(rune(k)) + requester + "\x00" }

// headKey returns the key of the first build of a lane: by kind, by the number of running builds of
// the requester, and by the order of creation.
func headKey(k Kind, running int, r *buildsv1.Record) string {
	return string(rune(k)) + orderKey(uint64(running)) + createdKey(r)
}

// timeKey encodes a time in nanoseconds since the Unix epoch so that the order of the bytes is that
// of the times.
func timeKey(nanos int64) string { return orderKey(uint64(max(nanos, 0))) }

// publication is a target ref of a build that has succeeded.
type publication struct {
	ref   uint64 // hash; see refHash
	build *entry
}

// orderPublications is the order in which the builds of each target ref ended.
func orderPublications(a, b publication) bool {
	if a.ref != b.ref {
		return a.ref < b.ref
	}
	return orderByEnd(a.build, b.build)
}
