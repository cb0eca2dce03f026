package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

var errDown = status.Error(codes.Unavailable, "this node is down")

// fake is a server whose methods call the functions of a test.
type fake struct {
	imagebuilderv1.UnimplementedImageBuilderServer
	mu       sync.Mutex
	requests []string // request ids in the order of arrival
	status   func(*imagebuilderv1.BuildStatusRequest) (*imagebuilderv1.BuildStatusResponse, error)
	build    func(*imagebuilderv1.BuildImageRequest) (*imagebuilderv1.BuildImageResponse, error)
	logs     func(*imagebuilderv1.BuildLogsRequest, imagebuilderv1.ImageBuilder_BuildLogsServer) error
	watch    func(*imagebuilderv1.WatchBuildsRequest, imagebuilderv1.ImageBuilder_WatchBuildsServer) error
}

func (f *fake) BuildImage(_ context.Context, r *imagebuilderv1.BuildImageRequest) (*imagebuilderv1.BuildImageResponse, error) {
	f.mu.Lock()
	f.requests = append(f.requests, r.RequestId)
	f.mu.Unlock()
	return f.build(r)
}

func (f *fake) BuildStatus(_ context.Context, r *imagebuilderv1.BuildStatusRequest) (*imagebuilderv1.BuildStatusResponse, error) {
	return f.status(r)
}

func (f *fake) BuildLogs(r *imagebuilderv1.BuildLogsRequest, s imagebuilderv1.ImageBuilder_BuildLogsServer) error {
	return f.logs(r, s)
}

func (f *fake) WatchBuilds(r *imagebuilderv1.WatchBuildsRequest, s imagebuilderv1.ImageBuilder_WatchBuildsServer) error {
	return f.watch(r, s)
}

// serve returns a client of fake servers. nil stands for a server that refuses connections.
func serve(t *testing.T, patience time.Duration, fakes ...*fake) *client.Client {
	t.Helper()
	return serveWith(t, client.Options{Patience: patience}, fakes...)
}

func serveWith(t *testing.T, o client.Options, fakes ...*fake) *client.Client {
	t.Helper()
	listeners := map[string]*bufconn.Listener{}
	for i, f := range fakes {
		name := fmt.Sprintf("node%d", i)
		o.Servers = append(o.Servers, "passthrough:///"+name)
		if f == nil {
			continue
		}
		l := bufconn.Listen(1 << 20)
		listeners[name] = l
		s := grpc.NewServer()
		imagebuilderv1.RegisterImageBuilderServer(s, f)
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Serve(l) })
		t.Cleanup(func() { s.Stop(); wg.Wait() })
	}
	o.Dial = []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) {
			if l := listeners[a]; l != nil {
				return l.DialContext(ctx)
			}
			return nil, errors.New("connection refused")
		}),
	}
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func Test_Build_OneIDHoweverOftenItIsSent(t *testing.T) {
	down := &fake{build: func(*imagebuilderv1.BuildImageRequest) (*imagebuilderv1.BuildImageResponse, error) {
		return nil, errDown
	}}
	up := &fake{build: func(r *imagebuilderv1.BuildImageRequest) (*imagebuilderv1.BuildImageResponse, error) {
		return &imagebuilderv1.BuildImageResponse{Build: &imagebuilderv1.Build{Id: "b"}}, nil
	}}
	c := serve(t, time.Minute, down, nil, up)
	for range 3 { // each may begin at another server
		req := &imagebuilderv1.BuildImageRequest{}
		res, err := c.Build(t.Context(), req)
		if err != nil || res.Build.Id != "b" {
			t.Fatal(res, err)
		}
		if req.RequestId != "" {
			t.Error("the caller's request was changed")
		}
	}
	for _, id := range down.requests {
		if id == "" || !strings.Contains(strings.Join(up.requests, " "), id) {
			t.Errorf("request %q was not retried with its id (%v)", id, up.requests)
		}
	}
}

func Test_Call_GivesUpAfterItsPatience(t *testing.T) {
	c := serve(t, 50*time.Millisecond, nil, nil)
	if _, err := c.Build(t.Context(), &imagebuilderv1.BuildImageRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

// Test_Call_FinalOnAllServers checks that a call ends once its error is final on all servers, and
// that one server with another error keeps it going.
func Test_Call_FinalOnAllServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, final := range []int{1, 2} {
			calls := 0
			down := func(final bool) *fake {
				return &fake{build: func(*imagebuilderv1.BuildImageRequest) (*imagebuilderv1.BuildImageResponse, error) {
					calls++
					if final {
						return nil, status.Error(codes.Unavailable, "no leader")
					}
					return nil, errDown
				}}
			}
			c := serveWith(t, client.Options{Patience: time.Second, Final: func(err error) bool { return strings.Contains(err.Error(), "no leader") }}, down(true), down(final == 2))
			began := time.Now()
			if _, err := c.Build(t.Context(), &imagebuilderv1.BuildImageRequest{}); status.Code(err) != codes.Unavailable {
				t.Errorf("got %v", err)
			}
			if took := time.Since(began); final == 2 && (calls != 2 || took != 0) || final == 1 && (calls <= 2 || took < time.Second) {
				t.Errorf("%d of 2 servers are final: %d calls in %s", final, calls, took)
			}
		}
	})
}

// Test_Call_Waiting: a call reports once that no server has responded for a second, with the last error.
// A call that a server executes for long reports nothing, until the server fails.
func Test_Call_Waiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last error
		reports := 0
		o := client.Options{Patience: 5 * time.Second, Waiting: func(err error) { last = err; reports++ }}
		took := time.Duration(0)
		down := func(after, until time.Duration) *fake {
			began := time.Now()
			return &fake{build: func(*imagebuilderv1.BuildImageRequest) (*imagebuilderv1.BuildImageResponse, error) {
				if took = time.Since(began); took < after {
					time.Sleep(after - took) // simulated: the server executes the call
					took = after
				}
				if took < until {
					return nil, errDown
				}
				return &imagebuilderv1.BuildImageResponse{}, nil
			}}
		}
		for name, c := range map[string]struct {
			after, until time.Duration
			reports      int
		}{
			"at once":              {},
			"soon":                 {until: 400 * time.Millisecond},
			"a slow server":        {after: 9 * time.Second}, // a second before a ping
			"down":                 {until: time.Hour, reports: 1},
			"down later":           {after: 2 * time.Second, until: 4 * time.Second, reports: 1},
			"down later, and soon": {after: 2 * time.Second, until: 2400 * time.Millisecond},
			"down for two seconds": {until: 2 * time.Second, reports: 1},
		} {
			last, reports = nil, 0
			_, err := serveWith(t, o, down(c.after, c.until)).Build(t.Context(), &imagebuilderv1.BuildImageRequest{})
			if reports != c.reports || (reports > 0) != (status.Code(last) == codes.Unavailable) {
				t.Errorf("%s: %d reports, the last with %v, want %d; the call returns %v", name, reports, last, c.reports, err)
			}
		}
	})
}

func Test_Call_OtherErrorsAreFinal(t *testing.T) {
	calls := 0
	f := &fake{build: func(*imagebuilderv1.BuildImageRequest) (*imagebuilderv1.BuildImageResponse, error) {
		calls++
		return nil, status.Error(codes.InvalidArgument, "no")
	}}
	c := serve(t, time.Minute, f)
	if _, err := c.Build(t.Context(), &imagebuilderv1.BuildImageRequest{}); status.Code(err) != codes.InvalidArgument || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func Test_Reads_AreAsNewAsWhatWasSeen(t *testing.T) {
	var indexes []uint64
	f := &fake{status: func(r *imagebuilderv1.BuildStatusRequest) (*imagebuilderv1.BuildStatusResponse, error) {
		indexes = append(indexes, r.MinIndex)
		return &imagebuilderv1.BuildStatusResponse{
			Build: &imagebuilderv1.Build{EndedAt: timestamppb.Now()}, Read: &imagebuilderv1.ReadInfo{Index: uint64(100 - 10*len(indexes))},
		}, nil
	}}
	c := serve(t, time.Minute, f)
	for range 3 {
		if _, err := c.Wait(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(indexes) != "[0 90 90]" {
		t.Errorf("min_index of the reads: %v, want [0 90 90]", indexes)
	}
}

// logServer serves the logs of attempts in chunks and breaks each stream after breakAfter chunks.
func logServer(t *testing.T, attempts []string, chunk, breakAfter int) *fake {
	return &fake{
		status: func(*imagebuilderv1.BuildStatusRequest) (*imagebuilderv1.BuildStatusResponse, error) {
			b := &imagebuilderv1.Build{EndedAt: timestamppb.Now()}
			for range attempts {
				b.Attempts = append(b.Attempts, &imagebuilderv1.Attempt{})
			}
			return &imagebuilderv1.BuildStatusResponse{Build: b}, nil
		},
		logs: func(r *imagebuilderv1.BuildLogsRequest, s imagebuilderv1.ImageBuilder_BuildLogsServer) error {
			if int(r.Attempt) > len(attempts) {
				return nil
			}
			text := attempts[r.Attempt-1]
			send := func(m *imagebuilderv1.BuildLogsResponse) {
				if err := s.Send(m); err != nil {
					t.Log(err)
				}
			}
			sent := 0
			for at := int(r.Offset); at < len(text); at += chunk {
				if sent++; sent > breakAfter {
					return errDown
				}
				// The chunk overlaps the one before: the client shows each byte once.
				from := max(at-2, 0)
				if sent == 1 {
					from = at
				}
				send(&imagebuilderv1.BuildLogsResponse{Attempt: r.Attempt, Offset: int64(from), Content: []byte(text[from:min(at+chunk, len(text))])})
			}
			send(&imagebuilderv1.BuildLogsResponse{Attempt: r.Attempt, Marker: true, Content: []byte("--- the end ---\n")})
			return nil
		},
	}
}

func Test_Logs_ResumeWhereTheyBroke(t *testing.T) {
	first, second := strings.Repeat("0123456789", 50)+"\n", ""
	for _, breakAfter := range []int{1, 2, 3, 1000} {
		f := logServer(t, []string{first, second, "third\n"}, 7, breakAfter)
		c := serve(t, time.Minute, f, nil, f)
		var out strings.Builder
		if err := c.Logs(t.Context(), client.LogsRequest{Build: "b", Follow: true}, func(c client.Chunk) error {
			out.Write(c.Content)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		want := first + "--- the end ---\n--- attempt 2 ---\n--- the end ---\n--- attempt 3 ---\nthird\n--- the end ---\n"
		if out.String() != want {
			t.Errorf("broken after %d chunks: got %q", breakAfter, out.String())
		}
	}
}

func Test_Logs_ErrorOfTheCallerEndsIt(t *testing.T) {
	c := serve(t, time.Minute, logServer(t, []string{"text\n"}, 2, 1000))
	full := errors.New("the disk is full")
	if err := c.Logs(t.Context(), client.LogsRequest{Build: "b"}, func(client.Chunk) error { return full }); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

func Test_Logs_AHoleIsAnError(t *testing.T) {
	f := &fake{logs: func(r *imagebuilderv1.BuildLogsRequest, s imagebuilderv1.ImageBuilder_BuildLogsServer) error {
		return s.Send(&imagebuilderv1.BuildLogsResponse{Attempt: 1, Offset: 5, Content: []byte("late")})
	}}
	c := serve(t, time.Minute, f)
	err := c.Logs(t.Context(), client.LogsRequest{Build: "b"}, func(client.Chunk) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "bytes 0 to 5") {
		t.Errorf("got %v", err)
	}
}

func Test_Watch_ResumesAndResubscribes(t *testing.T) {
	var after []uint64
	step := 0
	f := &fake{watch: func(r *imagebuilderv1.WatchBuildsRequest, s imagebuilderv1.ImageBuilder_WatchBuildsServer) error {
		after = append(after, r.AfterIndex)
		step++
		switch step {
		case 1:
			_ = s.Send(&imagebuilderv1.WatchBuildsResponse{Event: &imagebuilderv1.WatchBuildsResponse_SnapshotEnd{SnapshotEnd: true}, Index: 7})
			return errDown
		case 2:
			return status.Error(codes.OutOfRange, "resubscribe")
		}
		_ = s.Send(&imagebuilderv1.WatchBuildsResponse{Event: &imagebuilderv1.WatchBuildsResponse_Removed{Removed: "b"}, Index: 9})
		<-s.Context().Done()
		return nil
	}}
	c := serve(t, time.Minute, f)
	var events []string
	done := errors.New("done")
	err := c.Watch(t.Context(), nil, func(e client.Event) error {
		events = append(events, fmt.Sprintf("%v %v %q", e.SnapshotBegin, e.SnapshotEnd, e.Removed))
		if e.Removed != "" {
			return done
		}
		return nil
	})
	if !errors.Is(err, done) {
		t.Fatal(err)
	}
	if fmt.Sprint(after) != "[0 7 0]" {
		t.Errorf("resumed after %v", after)
	}
	if want := `true false ""|false true ""|true false ""|false false "b"`; strings.Join(events, "|") != want {
		t.Errorf("events %s", strings.Join(events, "|"))
	}
}

// Test_Wait_OutlivesServers checks that the time for which a call waits for the end of a build does
// not count as time without a server. Each of three servers fails during the wait.
func Test_Wait_OutlivesServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		busy := &fake{status: func(r *imagebuilderv1.BuildStatusRequest) (*imagebuilderv1.BuildStatusResponse, error) {
			if r.WaitFor == 0 {
				return &imagebuilderv1.BuildStatusResponse{Build: &imagebuilderv1.Build{Id: "b"}}, nil
			}
			if calls++; calls > 4 {
				return &imagebuilderv1.BuildStatusResponse{Build: &imagebuilderv1.Build{Id: "b", EndedAt: timestamppb.Now()}}, nil
			}
			time.Sleep(9 * time.Second)
			return nil, errDown
		}}
		for _, servers := range [][]*fake{{busy}, {busy, busy, busy}} {
			calls = 0
			c := serve(t, 5*time.Second, servers...)
			if b, err := c.Wait(t.Context(), "b"); err != nil || b.Id != "b" {
				t.Errorf("%d servers: %v, %v", len(servers), b, err)
			}
		}
	})
}

// Test_Wait_GivesUpWithoutServers checks that Wait returns after Options.Patience if no server
// responds even to a call that does not wait.
func Test_Wait_GivesUpWithoutServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := false
		f := &fake{status: func(r *imagebuilderv1.BuildStatusRequest) (*imagebuilderv1.BuildStatusResponse, error) {
			if !down {
				time.Sleep(9 * time.Second)
				down = true
			}
			return nil, errDown
		}}
		c := serve(t, 5*time.Second, f)
		began := time.Now()
		if _, err := c.Wait(t.Context(), "b"); status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began) - 9*time.Second; took < 5*time.Second || took > 7*time.Second {
			t.Errorf("gave up %s after the server failed, want 5 s", took)
		}
	})
}

// Test_Logs_OfAQuietBuild checks that Logs continues to follow a build without output when its
// server fails.
func Test_Logs_OfAQuietBuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams := 0
		f := logServer(t, []string{"the end\n"}, 100, 1000)
		send := f.logs
		f.logs = func(r *imagebuilderv1.BuildLogsRequest, s imagebuilderv1.ImageBuilder_BuildLogsServer) error {
			if streams++; streams <= 3 {
				time.Sleep(9 * time.Second)
				return errDown
			}
			return send(r, s)
		}
		f.status = func(*imagebuilderv1.BuildStatusRequest) (*imagebuilderv1.BuildStatusResponse, error) {
			b := &imagebuilderv1.Build{Attempts: []*imagebuilderv1.Attempt{{}}}
			if streams > 3 {
				b.EndedAt = timestamppb.Now()
			}
			return &imagebuilderv1.BuildStatusResponse{Build: b}, nil
		}
		c := serve(t, 5*time.Second, f)
		var out strings.Builder
		if err := c.Logs(t.Context(), client.LogsRequest{Build: "b", Follow: true}, func(c client.Chunk) error {
			out.Write(c.Content)
			return nil
		}); err != nil || !strings.HasPrefix(out.String(), "the end\n") {
			t.Errorf("%v, %q", err, out.String())
		}
	})
}

// Test_Logs_OfServersThatAreBehind checks that Logs reads all attempts of a build that it follows,
// although a server does not know the second attempt yet.
func Test_Logs_OfServersThatAreBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		behind := func() bool { return time.Since(began) < 9*time.Second }
		f := logServer(t, []string{"first\n", "second\n"}, 100, 1000)
		send := f.logs
		f.logs = func(r *imagebuilderv1.BuildLogsRequest, s imagebuilderv1.ImageBuilder_BuildLogsServer) error {
			if r.Attempt == 2 && behind() {
				return status.Error(codes.NotFound, "there is no attempt 2")
			}
			return send(r, s)
		}
		f.status = func(*imagebuilderv1.BuildStatusRequest) (*imagebuilderv1.BuildStatusResponse, error) {
			b := &imagebuilderv1.Build{Attempts: []*imagebuilderv1.Attempt{{}}}
			if !behind() {
				b.Attempts, b.EndedAt = append(b.Attempts, &imagebuilderv1.Attempt{}), timestamppb.Now()
			}
			return &imagebuilderv1.BuildStatusResponse{Build: b}, nil
		}
		c := serve(t, 5*time.Second, f)
		var out strings.Builder
		if err := c.Logs(t.Context(), client.LogsRequest{Build: "b", Follow: true}, func(c client.Chunk) error {
			out.Write(c.Content)
			return nil
		}); err != nil || !strings.Contains(out.String(), "second\n") {
			t.Errorf("%v, %q", err, out.String())
		}
	})
}

// Test_Logs_OfABuildThatEndsMeanwhile checks that Logs does not give up on an attempt that begins, and
// a build that ends, right after a server that was behind did not know the attempt.
func Test_Logs_OfABuildThatEndsMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		f := logServer(t, []string{"first\n", "second\n"}, 100, 1000)
		send := f.logs
		f.logs = func(r *imagebuilderv1.BuildLogsRequest, s imagebuilderv1.ImageBuilder_BuildLogsServer) error {
			if r.Attempt == 2 && asked < 3 {
				return status.Error(codes.NotFound, "there is no attempt 2")
			}
			return send(r, s)
		}
		f.status = func(*imagebuilderv1.BuildStatusRequest) (*imagebuilderv1.BuildStatusResponse, error) {
			b := &imagebuilderv1.Build{Attempts: []*imagebuilderv1.Attempt{{}}}
			if asked++; asked > 3 {
				b.Attempts, b.EndedAt = append(b.Attempts, &imagebuilderv1.Attempt{}), timestamppb.Now()
			}
			return &imagebuilderv1.BuildStatusResponse{Build: b}, nil
		}
		c := serve(t, time.Nanosecond, f)
		var out strings.Builder
		if err := c.Logs(t.Context(), client.LogsRequest{Build: "b", Follow: true}, func(c client.Chunk) error {
			out.Write(c.Content)
			return nil
		}); err != nil || !strings.Contains(out.String(), "second\n") {
			t.Errorf("%v, %q", err, out.String())
		}
	})
}

// Test_Logs_GivesUp checks that Logs returns after Options.Patience if the build has ended and no
// server has its log.
func Test_Logs_GivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := logServer(t, []string{"text"}, 2, 0)
		c := serve(t, 5*time.Second, f)
		began := time.Now()
		err := c.Logs(t.Context(), client.LogsRequest{Build: "b", Follow: true}, func(client.Chunk) error { return nil })
		if took := time.Since(began); status.Code(err) != codes.Unavailable || took < 5*time.Second || took > 7*time.Second {
			t.Errorf("%v after %s", err, took)
		}
	})
}

// Test_Logs_OfOneBuild checks that Logs with the ref of an image reads the log of one build to its
// end, although a newer build of the image begins meanwhile.
func Test_Logs_OfOneBuild(t *testing.T) {
	newest := "old"
	f := &fake{
		status: func(r *imagebuilderv1.BuildStatusRequest) (*imagebuilderv1.BuildStatusResponse, error) {
			id := r.GetId()
			if r.GetRef() != "" {
				id = newest
			}
			return &imagebuilderv1.BuildStatusResponse{Build: &imagebuilderv1.Build{
				Id: id, EndedAt: timestamppb.Now(), Attempts: []*imagebuilderv1.Attempt{{}},
			}}, nil
		},
		logs: func(r *imagebuilderv1.BuildLogsRequest, s imagebuilderv1.ImageBuilder_BuildLogsServer) error {
			build := r.GetId()
			if r.GetRef() != "" {
				build = newest
			}
			text := strings.Repeat(build, 3)
			if r.Attempt > 1 || int(r.Offset) == len(text) {
				return nil
			}
			if err := s.Send(&imagebuilderv1.BuildLogsResponse{Attempt: 1, Offset: r.Offset, Content: []byte(text[r.Offset : r.Offset+3])}); err != nil {
				t.Error(err)
			}
			newest = "new"
			return errDown
		},
	}
	c := serve(t, time.Minute, f)
	var out strings.Builder
	if err := c.Logs(t.Context(), client.LogsRequest{Build: "r.example.com/a:b", Follow: true}, func(c client.Chunk) error {
		out.Write(c.Content)
		return nil
	}); err != nil || out.String() != "oldoldold" {
		t.Errorf("%v, %q", err, out.String())
	}
}
