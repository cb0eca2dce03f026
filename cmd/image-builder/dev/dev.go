package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/follow"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/request"
	"github.com/image-builder-ha/image-builder/node"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// devOptions are the flags of `dev`.
type devOptions struct {
	dataDir         string
	grpcAddress     string
	httpAddress     string
	registryAddress string
	metricsAddress  string
	healthAddress   string
	pprofAddress    string
	peerAddress     string
	gossipAddress   string
	nodes           int
	buildkitd       string
	example         string
	exit            bool
	verbose         bool
}

func NewDevCommand() *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run three nodes with a registry of their own on loopback, and build an image",
		Long: `Runs everything that it takes to try the service on one machine: a registry that
keeps its images, three nodes that form a cluster with keys and certificates of their
own, a small base image (no network is needed), and two builds. The BuildKit daemon is
the one that BUILDKIT_HOST names (unix or plain tcp; it has to reach the registry's
address), or one of its own, as root. Then it serves until Ctrl-C, and starts nodes again that you kill. All data is kept in --data-dir; delete
it to start anew. The second node has the next port of each address (metrics, health
and pprof: ten further), and so on.

Exit status: 0 success, 1 the build failed, 2 wrong usage, 3 a part could not be started,
130 interrupted before it served.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			err := runDev(ctx, o, cmd.OutOrStdout())
			if err != nil && ctx.Err() != nil { // whatever it was in the middle of
				return cli.ExitWith(cli.ExitInterrupted, errors.New("interrupted; all that was started is stopped, the data stays"))
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dataDir, "data-dir", ".run", "where state, logs and images are kept")
	f.IntVar(&o.nodes, "nodes", 3, "how many nodes to run: 1, or 3 and more")
	f.StringVar(&o.peerAddress, "peer-address", "127.0.0.1:7800", "address of the peer port")
	f.StringVar(&o.gossipAddress, "gossip-address", "127.0.0.1:7900", "address of gossip")
	f.StringVar(&o.grpcAddress, "grpc-address", "127.0.0.1:8080", "address of the API")
	f.StringVar(&o.httpAddress, "http-address", "127.0.0.1:8090", "address of the web page")
	f.StringVar(&o.registryAddress, "registry-address", "127.0.0.1:15000", "address of the registry")
	f.StringVar(&o.metricsAddress, "metrics-address", "127.0.0.1:9500", "address of the metrics")
	f.StringVar(&o.healthAddress, "health-address", "127.0.0.1:9501", "address of /ready and /live")
	f.StringVar(&o.pprofAddress, "pprof-address", "127.0.0.1:6060", "address of pprof")
	f.StringVar(&o.buildkitd, "buildkitd", "bin/buildkitd", "the BuildKit daemon to start, unless BUILDKIT_HOST names one; without either Dockerfiles cannot be built")
	f.StringVar(&o.example, "example", "examples/hello", "the directory to build")
	f.BoolVar(&o.exit, "exit", false, "end after the build; status 0 only if the image is in the registry")
	f.BoolVar(&o.verbose, "verbose", false, "show the logs of registry and node")
	return cmd
}

func runDev(ctx context.Context, o devOptions, out io.Writer) (err error) {
	dir, err := filepath.Abs(o.dataDir)
	if err != nil {
		return fmt.Errorf("find the data directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create the data directory: %w", err)
	}
	if o.nodes < 1 || o.nodes == 2 {
		return cli.ExitWith(cli.ExitUsage, fmt.Errorf("--nodes %d: use 1, or 3 and more: two nodes stop when either fails", o.nodes))
	}
	unlock, err := lockDev(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := checkFree("--registry-address", o.registryAddress); err != nil {
		return err
	}
	nodes, err := devNodes(dir, o)
	if err != nil {
		return err
	}
	registry, err := startDevRegistry(ctx, dir, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.stop()) }()
	fmt.Fprintf(out, "registry  http://%s  (pid %d, images in %s)\n", o.registryAddress, registry.pid(), filepath.Join(dir, "registry"))
	base, err := seedBase(ctx, o.registryAddress)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "base      %s  (seeded from this machine's busybox)\n", base)
	bk, err := openDevBuildKit(ctx, dir, o, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bk.close()) }()
	if err := writeDevConfigs(dir, nodes, bk.address, o); err != nil {
		return err
	}
	if err := startDevNodes(ctx, nodes, o); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopDevNodes(nodes)) }()
	devNodesTable(out, dir, nodes)
	if err := devBuilds(ctx, o, base, bk.address != "" && bk.example, out); err != nil {
		return err
	}
	if o.exit {
		return nil
	}
	fmt.Fprintf(out, `
It serves until Ctrl-C. See what it does: http://%s/ui/
Try, in another terminal:
  bin/image-builder list
  bin/image-builder build --ref %s --force
  bin/image-builder logs -f ID
  bin/image-builder cluster status --server unix://%s/operator.sock
  kill -9 %d   (%s; %s)
  curl -s http://%s/metrics | grep gitpod_
`, nodes[0].http, base, nodes[0].dir, nodes[0].pid(), nodes[0].name, devKillNote(len(nodes)), nodes[0].metrics)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-registry.done:
			cancel(fmt.Errorf("the registry has ended by itself: %w; its log is %s", registry.err, registry.log))
		case <-ctx.Done():
		}
	}()
	if err := keepNodes(ctx, nodes, o, out); err != nil {
		return err
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	fmt.Fprintln(out, "\nstopping; the data stays in", dir)
	return nil
}

// lockDev keeps a second dev from the data of one that runs.
func lockDev(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, cli.ExitWith(cli.ExitUnavailable, fmt.Errorf("%s is used by another 'make run' or 'image-builder dev': stop that, or name another --data-dir, and other addresses", dir))
	}
	return func() { _ = f.Close() }, nil
}

func devKillNote(nodes int) string {
	if nodes == 1 {
		return "it is started again and has lost nothing"
	}
	return "or any other: the rest goes on within a second, no build is lost, and it is started again"
}

func checkFree(flag, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return cli.ExitWith(cli.ExitUnavailable, node.ListenError(flag, address, err))
	}
	return l.Close()
}

// child is a process that dev started.
type child struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // once done is closed
}

func startChild(dir, name string, verbose bool, program string, args ...string) (*child, error) {
	c := &child{cmd: exec.Command(program, args...), log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	f, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer f.Close()
	c.cmd.Stdout, c.cmd.Stderr = f, f
	if verbose {
		c.cmd.Stdout, c.cmd.Stderr = os.Stderr, os.Stderr
	}
	// Its own process group: Ctrl-C is ours to pass on, in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop ends the process, gently at first, and waits for it.
func (c *child) stop() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(30 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.done
	}
	return nil
}

// awaitHTTP polls until url answers 200, the child ends, or a limit is over.
func (c *child) awaitHTTP(ctx context.Context, what, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-c.done:
			return cli.ExitWith(cli.ExitUnavailable, fmt.Errorf("%s did not start (%w); its log is %s", what, c.err, c.log))
		case <-ctx.Done():
			return cli.ExitWith(cli.ExitUnavailable, fmt.Errorf("%s did not get ready; its log is %s", what, c.log))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// devBuilds builds by the real API: the example twice, to show the cache, or
// without BuildKit the workspace image of the base image.
func devBuilds(ctx context.Context, o devOptions, base string, dockerfiles bool, out io.Writer) error {
	c := cli.ClientFlags{Server: o.grpcAddress, Output: "table"}
	client, done, err := c.Dial()
	if err != nil {
		return err
	}
	defer done()
	f := &follow.Follower{Client: client, C: &c, Out: out, ErrOut: out}
	if !dockerfiles {
		fmt.Fprintf(out, "$ image-builder build --ref %s --force\n", base)
		return devBuild(ctx, f, &imagebuilderv1.BuildImageRequest{RequestId: uuid.NewString(), Source: request.RefSource(base), Requester: request.DefaultRequester(), Force: true})
	}
	for _, note := range []string{"", "   (again: every step comes from the cache)"} {
		fmt.Fprintf(out, "$ image-builder build --force --build-arg BASE=%s %s%s\n", base, o.example, note)
		b := request.BuildFlags{Requester: request.DefaultRequester(), Force: true, Args: []string{"BASE=" + base}}
		req, err := b.Request(ctx, client, []string{o.example}, nil)
		if err != nil {
			return c.Explain(err)
		}
		if err := devBuild(ctx, f, req); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	return nil
}

// devBuild builds once and looks into the registry: success is what it says,
// not what we say.
func devBuild(ctx context.Context, f *follow.Follower, req *imagebuilderv1.BuildImageRequest) error {
	if err := f.Build(ctx, req); err != nil {
		return err
	}
	res, err := f.Client.ResolveWorkspaceImage(ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: req.Source})
	if err != nil {
		return f.C.Explain(err)
	}
	if !res.Exists {
		return cli.ExitWith(cli.ExitFailed, fmt.Errorf("the registry does not have %s", res.Ref))
	}
	fmt.Fprintf(f.Out, "the registry has it at %s\n", res.Ref)
	return nil
}
