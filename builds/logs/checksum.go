package logs

import (
	"fmt"

	"github.com/cespare/xxhash/v2"
)

func checksumText(d *xxhash.Digest) string { return fmt.Sprintf("xxh64:%016x", d.Sum64()) }

// Checksum returns the checksum of the first length bytes of a log.
func (s *Store) Checksum(key Key, length int64) (string, error) {
	l, err := s.get(key, false)
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	whole, sum := l.length == length, checksumText(l.sum)
	l.mu.Unlock()
	if whole {
		return sum, nil
	}
	d := xxhash.New()
	for at := int64(0); at < length; {
		recs, err := s.Records(key, at, 1<<20)
		if err != nil {
			return "", err
		}
		if len(recs) == 0 {
			return "", fmt.Errorf("%w: it ends at byte %d of %d", ErrShort, at, length)
		}
		for _, r := range recs {
			if r.kind != kindData {
				continue
			}
			// There may be bytes after length that are on this copy only: leave them out.
			_, _ = d.Write(r.payload[:max(0, min(int64(len(r.payload)), length-at))])
			at += int64(len(r.payload))
		}
	}
	return checksumText(d), nil
}
