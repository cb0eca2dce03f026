package logs

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// cpuTime returns the processor time of this process. Other processes do not change it much.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// redactPieces redacts output in pieces of 64 KiB. It reports the processor time and the visited
// states for each byte, and the greatest number of bytes that are held back.
func redactPieces(b *testing.B, secret string, output []byte) {
	const piece = 64 << 10
	held, work := 0, 0
	begin := cpuTime(b)
	for b.Loop() {
		r := NewRedactor([][]byte{[]byte(secret)}, nil)
		for rest := output; len(rest) > 0; {
			n := min(piece, len(rest))
			r.Write(rest[:n])
			held, rest = max(held, len(r.held)), rest[n:]
		}
		work = r.work
	}
	b.ReportMetric(float64(cpuTime(b)-begin)/float64(len(output))/float64(b.N), "cpu-ns/byte")
	b.ReportMetric(float64(held), "held-bytes")
	b.ReportMetric(float64(work)/float64(len(output)), "states/byte")
}

// Benchmark_Redact_Periodic redacts 64 MiB that repeat a secret.
func Benchmark_Redact_Periodic(b *testing.B) {
	redactPieces(b, "aaaaaa", bytes.Repeat([]byte("a"), 64<<20))
}

// Benchmark_Redact_Worst redacts 64 MiB of the output that is worst, by visited states, of 10,000
// random secrets and outputs.
func Benchmark_Redact_Worst(b *testing.B) {
	worst, secret, output := 0., "", ""
	for seed := range uint64(10_000) {
		_, s, out := periodic(seed)
		r := NewRedactor([][]byte{[]byte(s)}, nil)
		r.Write([]byte(out))
		if w := float64(r.work) / float64(len(out)); w > worst && len(out) > 100 {
			worst, secret, output = w, s, out
		}
	}
	b.Logf("secret %q, output %.80q", secret, output)
	redactPieces(b, secret, bytes.Repeat([]byte(output), 64<<20/len(output)))
}

// Benchmark_Redact_OtherLogs measures how long a line of one log takes until a reader has it, while
// nothing else is written, and while other logs repeat a secret without a pause.
func Benchmark_Redact_OtherLogs(b *testing.B) {
	for _, busy := range []int{0, 1, 8} {
		b.Run(strconv.Itoa(busy), func(b *testing.B) {
			s, err := Open(Options{Dir: b.TempDir(), MaxBytes: 64 << 20})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			const build = "0190a0b0-0000-7000-8000-000000000001"
			w, err := s.Create(Key{build, 100}, 1, nil, false)
			if err != nil {
				b.Fatal(err)
			}
			r, err := s.Reader(b.Context(), w.l.key, 0)
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			ctx, cancel := context.WithCancel(b.Context())
			var writers sync.WaitGroup
			defer writers.Wait()
			defer cancel()
			output := []byte(strings.Repeat("a", 64<<10))
			for i := range busy {
				other, err := s.Create(Key{build, uint32(i + 1)}, 1, NewRedactor([][]byte{[]byte("aaaaaa")}, nil), false)
				if err != nil {
					b.Fatal(err)
				}
				writers.Go(func() {
					for ctx.Err() == nil {
						if _, err := other.Write(output); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				if _, err := w.Write([]byte("a line\n")); err != nil {
					b.Fatal(err)
				}
				if _, _, err := r.Next(ctx); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begin))
			}
			slices.Sort(took)
			ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
			b.ReportMetric(ms(took[len(took)/2]), "p50-ms")
			b.ReportMetric(ms(took[len(took)*99/100]), "p99-ms")
			b.ReportMetric(ms(took[len(took)-1]), "max-ms")
		})
	}
}
