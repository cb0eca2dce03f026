package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/image-builder-ha/image-builder/client"
)

// reader reads the log of one build and keeps checksums only.
type reader struct {
	r     *run
	name  string
	build string
	late  bool
	// marks are, by attempt, the lengths at which a checksum is wanted.
	marks map[uint32][]int64

	attempts []*attemptRead
	tail     []byte // the last bytes, to find a secret across chunks
	err      error
	at       time.Time
}

type attemptRead struct {
	number   uint32
	length   int64
	sum      *xxhash.Digest
	prefixes map[int64]string
}

// follow reads until the build has ended.
func (d *reader) follow(ctx context.Context, c *client.Client) {
	d.err = c.Logs(ctx, client.LogsRequest{Build: d.build, Follow: true}, d.chunk)
	d.at = time.Now()
}

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

func (d *reader) scan(content []byte) {
	text := append(d.tail, content...)
	if d.r.canary.in(text) {
		d.r.leaked("the log shown to "+d.name, d.build)
	}
	d.tail = slices.Clone(text[max(0, len(text)-d.r.canary.longest()):])
}

func checksum(d *xxhash.Digest) string { return fmt.Sprintf("xxh64:%016x", d.Sum64()) }

// record answers what was read. Of a reader that came to the end, attempts
// without a byte are part of it; of one that broke off before the first byte,
// the first attempt.
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
		if len(d.attempts) == 0 && len(end.Attempts) > 0 { // not even its first byte could be read
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

// readLate reads the log of a build that has ended, and records what all of
// its readers got.
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
	all = append(all, late.record(end)...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logs = append(r.logs, all...)
}

// readAgain reads some of the logs once more when everything is over.
func (r *run) readAgain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.o.Patience)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, i := range rand.Perm(len(r.ends))[:min(500, len(r.ends))] {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break // of those that were not tried nothing is known
		}
		end := r.ends[i]
		wg.Go(func() {
			defer func() { <-slots }()
			r.readLate(ctx, r.all[rand.IntN(len(r.all))], fmt.Sprintf("%s/again", end.Build), end, nil)
		})
	}
	wg.Wait()
}

// look asks the registry for all that was published.
func (r *run) look(ctx context.Context) []ImageLook {
	ctx, cancel := context.WithTimeout(ctx, r.o.Patience)
	defer cancel()
	last := map[string]*ImageLook{}
	var refs []string
	for _, e := range r.ends {
		if e.Digest == "" || e.Phase != "succeeded" {
			continue
		}
		l := last[e.Ref]
		if l == nil {
			l = &ImageLook{Ref: e.Ref}
			last[e.Ref] = l
			refs = append(refs, e.Ref)
		}
		if l.Builds++; e.Build >= l.Build { // ids begin with the time
			l.Build, l.Want = e.Build, e.Digest
		}
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	out := make([]ImageLook, len(refs))
	for i, ref := range refs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			l := *last[ref]
			var err error
			if l.Got, err = r.o.Looker.Digest(ctx, ref); err != nil {
				l.Error = err.Error()
			}
			out[i] = l
		})
	}
	wg.Wait()
	return out
}
