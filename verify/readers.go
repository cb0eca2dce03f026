package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/client"
)

// reader reads the log of one build. It keeps lengths and checksums, not the bytes.
type reader struct {
	r     *run
	name  string
	build string
	late  bool
	// marks are the lengths at which the reader computes a checksum, by attempt, ascending.
	marks map[uint32][]int64

	attempts []*attemptRead
	tail     []byte // last bytes, to find a secret that spans two chunks
	err      error
	at       time.Time
}

// attemptRead is the part of an attempt's log that a reader has received.
type attemptRead struct {
	number   uint32
	length   int64
	sum      *xxhash.Digest
	prefixes map[int64]string
}

// follow reads until the build has ended or the client gives up.
func (d *reader) follow(ctx context.Context, c *client.Client) {
	d.err = c.Logs(ctx, client.LogsRequest{Build: d.build, Follow: true}, d.chunk)
	d.at = time.Now()
}

// chunk adds a chunk to the attempt that is being read.
func (d *reader) chunk(ch client.Chunk) error {
	d.scan(ch.Content)
	if ch.Marker {
		return nil
	}
	var a *attemptRead
	if n := len(d.attempts); n > 0 && d.attempts[n-1].number == ch.Attempt {
		a = d.attempts[n-1]
	} else {
		a = &attemptRead{number: ch.Attempt, sum: xxhash.New(), prefixes: map[int64]string{}}
		d.attempts = append(d.attempts, a)
	}
	content := ch.Content
	for _, m := range d.marks[ch.Attempt] {
		if m > a.length && m <= a.length+int64(len(content)) {
			k := m - a.length
			_, _ = a.sum.Write(content[:k])
			content, a.length = content[k:], m
			a.prefixes[m] = checksum(a.sum)
		}
	}
	_, _ = a.sum.Write(content)
	a.length += int64(len(content))
	return nil
}

// scan reports a leak if the log contains the canary.
func (d *reader) scan(content []byte) {
	text := append(d.tail, content...)
	if d.r.canary.in(text) {
		d.r.leaked("the log received by "+d.name, d.build)
	}
	d.tail = slices.Clone(text[max(0, len(text)-d.r.canary.longest()):])
}

// checksum renders a checksum as the API does.
func checksum(d *xxhash.Digest) string { return fmt.Sprintf("xxh64:%016x", d.Sum64()) }

// record returns the result of the reader, by attempt. If the reader reached the end, it includes
// attempts without a byte. If it failed before the first byte, it includes the first attempt.
func (d *reader) record(end End) (out []LogRead) {
	for _, a := range d.attempts {
		l := LogRead{Build: d.build, Attempt: a.number, Reader: d.name, Late: d.late, Length: a.length, Checksum: checksum(a.sum), At: d.at}
		if len(a.prefixes) > 0 {
			l.Prefixes = a.prefixes
		}
		if d.err != nil && a == d.attempts[len(d.attempts)-1] {
			l.Error = d.err.Error()
		}
		out = append(out, l)
	}
	if d.err != nil {
		if len(d.attempts) == 0 && len(end.Attempts) > 0 { // it failed before the first byte
			out = append(out, LogRead{Build: d.build, Attempt: end.Attempts[0].Number, Reader: d.name, Late: d.late, Checksum: checksum(xxhash.New()), Error: d.err.Error(), At: d.at})
		}
		return out
	}
	for _, e := range end.Attempts {
		if !slices.ContainsFunc(d.attempts, func(a *attemptRead) bool { return a.number == e.Number }) {
			out = append(out, LogRead{Build: d.build, Attempt: e.Number, Reader: d.name, Late: d.late, Checksum: checksum(xxhash.New()), At: d.at})
		}
	}
	return out
}

// readLate reads the log of a build that has ended, and records the results of all its readers.
func (r *run) readLate(ctx context.Context, c *client.Client, name string, end End, readers []*reader) {
	late := &reader{r: r, name: name, build: end.Build, late: true, marks: map[uint32][]int64{}}
	var all []LogRead
	for _, d := range readers {
		for _, l := range d.record(end) {
			all = append(all, l)
			if l.Error != "" {
				late.marks[l.Attempt] = append(late.marks[l.Attempt], l.Length)
			}
		}
	}
	for n := range late.marks {
		slices.Sort(late.marks[n])
	}
	late.follow(ctx, c)
	if status.Code(late.err) != codes.NotFound || !mayForget(time.Since(r.began)) {
		all = append(all, late.record(end)...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logs = append(r.logs, all...)
}

// readAgain reads up to 500 logs once more after the load.
func (r *run) readAgain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Patience)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, i := range rand.Perm(len(r.ends))[:min(500, len(r.ends))] {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break // there is no result for the logs that were not read
		}
		end := r.ends[i]
		wg.Go(func() {
			defer func() { <-slots }()
			r.readLate(ctx, r.all[rand.IntN(len(r.all))], fmt.Sprintf("%s/again", end.Build), end, nil)
		})
	}
	wg.Wait()
}
