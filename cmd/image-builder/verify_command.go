package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"

	"github.com/spf13/cobra"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/verify"
)

// verifyFlags are those of `verify`.
type verifyFlags struct {
	cli.ClientFlags
	duration, patience           time.Duration
	rate                         float64
	profile, repository          string
	images, insecure, allowHosts []string
	base                         string
	readers, cancel, count       int
	record, check, html          string
	faultListen, faultFile       string
}

func newVerifyCommand() *cobra.Command {
	var v verifyFlags
	cmd := &cobra.Command{
		Use: "verify", Short: "Check a running cluster while it is used, and while it is broken", Args: cobra.NoArgs,
		Long: `Checks a running cluster while it is used, and while somebody breaks it.

Clients on all nodes ask for builds, attach, cancel, read, and follow logs through
reconnects. Everything they were answered is judged: that acknowledged builds end
as expected, that there is one build per image, that phases and epochs only grow,
that reads are as new as they promise (porcupine looks for one order of all calls),
that all readers of a log get the same bytes, that images are in the registry, and
that no secret is readable.

Give --server the public address of every node. Builds are made from --image, or
from small images that are pushed to --repository first; they may be in use by one
verification at a time. The registry is asked with the docker configuration of the
user who runs this.

Tell what is broken, and when, by POST /faults/begin?name=... and /faults/end?name=...
to --fault-listen, or by lines {"name":"...","state":"begin"} (or "end") that are
appended to --fault-file.

Exit status: 0 every promise held, 1 one was broken or could not be judged, 2 wrong
usage, 3 nothing could be seen, 130 interrupted.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return v.run(cmd) },
	}
	v.Register(cmd)
	f := cmd.Flags()
	f.Lookup("output").Usage = "table, json or junit"
	f.DurationVar(&v.duration, "duration", time.Minute, "how long builds are asked for")
	f.DurationVar(&v.patience, "patience", 2*time.Minute, "how long acknowledged builds may take to end after that")
	f.Float64Var(&v.rate, "rate", 20, "builds a second")
	f.StringVar(&v.profile, "profile", verify.ProfileInstant, "instant (tiny images), ref (images of some layers), dockerfile, or mixed")
	f.StringSliceVar(&v.images, "image", nil, "build from these images instead of pushing some")
	f.StringVar(&v.repository, "repository", "", "push images to build from here, registry/name")
	f.IntVar(&v.count, "images", 60, "how many to push")
	f.StringVar(&v.base, "base", "", "image with a shell, for the steps of Dockerfiles (without it they only copy)")
	f.StringSliceVar(&v.insecure, "insecure-registry", nil, "hosts that are asked by plain HTTP (those on loopback are)")
	f.StringSliceVar(&v.allowHosts, "allow-host", nil, "let builds use the install's credentials for these hosts")
	f.IntVar(&v.readers, "readers", 2, "readers that follow the log of each build")
	f.IntVar(&v.cancel, "cancel", 5, "how many of a hundred builds are cancelled")
	f.StringVar(&v.record, "record", "", "write all that was seen to this file, JSON lines")
	f.StringVar(&v.check, "check", "", "judge this file again instead of running")
	f.StringVar(&v.html, "html", "", "write the timeline to this file, one HTML page")
	f.StringVar(&v.faultListen, "fault-listen", "", "take announcements of faults by HTTP on this address")
	f.StringVar(&v.faultFile, "fault-file", "", "take announcements of faults from this file")
	return cmd
}

func (v *verifyFlags) run(cmd *cobra.Command) error {
	if v.Output != "table" && v.Output != "json" && v.Output != "junit" {
		return cli.ExitWith(cli.ExitUsage, fmt.Errorf("--output %q is unknown; use table, json or junit", v.Output))
	}
	e, err := v.evidence(cmd)
	if err != nil {
		return err
	}
	if v.record != "" {
		if err := toFile(v.record, e.Save); err != nil {
			return cli.ExitWith(cli.ExitUsage, err)
		}
	}
	r := verify.NewReport(e)
	if v.html != "" {
		if err := toFile(v.html, r.HTML); err != nil {
			return cli.ExitWith(cli.ExitUsage, err)
		}
	}
	print := map[string]func(io.Writer) error{"table": r.Text, "json": r.JSON, "junit": r.JUnit}[v.Output]
	if err := print(cmd.OutOrStdout()); err != nil {
		return err
	}
	if cmd.Context().Err() != nil {
		return cli.ExitWith(cli.ExitInterrupted, errors.New("interrupted"))
	}
	if !r.OK {
		return cli.ExitWith(cli.ExitFailed, nil)
	}
	return nil
}

// toFile writes a file with what f writes.
func toFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return write(f)
}

// evidence runs, or reads what a former run saw.
func (v *verifyFlags) evidence(cmd *cobra.Command) (*verify.Evidence, error) {
	if v.check != "" {
		f, err := os.Open(v.check)
		if err != nil {
			return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("--check: %w", err))
		}
		defer f.Close()
		e, err := verify.Load(f)
		if err != nil {
			return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("--check %s: %w", v.check, err))
		}
		return e, nil
	}
	o, err := v.options(cmd)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	stop, err := v.takeFaults(ctx, o.Faults, o.Progress)
	if err != nil {
		return nil, cli.ExitWith(cli.ExitUsage, err)
	}
	e, err := verify.Run(ctx, o)
	cancel()
	stop()
	if e == nil {
		return nil, v.Explain(err)
	}
	return e, nil // if it was interrupted, what there is is judged
}

func (v *verifyFlags) options(cmd *cobra.Command) (o verify.Options, err error) {
	tls, err := v.TLSConfig()
	if err != nil {
		return o, err
	}
	if v.profile != verify.ProfileDockerfile && len(v.images) == 0 && v.repository == "" {
		return o, cli.ExitWith(cli.ExitUsage, fmt.Errorf("profile %s builds from images: name some by --image, or by --repository where to push some", v.profile))
	}
	looker := verify.DockerLooker{Insecure: v.insecure}
	o = verify.Options{
		Servers: strings.Split(v.Server, ","), TLS: tls, Duration: v.duration, Rate: v.rate, Profile: v.profile, Readers: v.readers,
		Instant: v.images, Images: v.images, Base: v.base, Cancel: v.cancel, Patience: v.patience, Looker: looker, Faults: &verify.Faults{},
		Auth:     &imagebuilderv1.RegistryAuth{AllowBaseRepository: true, AllowWorkspaceRepository: true, AllowHosts: v.allowHosts},
		Progress: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)),
	}
	if v.repository == "" || len(v.images) > 0 {
		return o, nil
	}
	o.Progress.Info("pushes images to build from", "repository", v.repository, "images", v.count)
	if o.Instant, err = looker.Prepare(cmd.Context(), v.repository, v.count, 1, 1024); err == nil {
		o.Images, err = looker.Prepare(cmd.Context(), v.repository, v.count, 4, 256<<10)
	}
	if err != nil {
		return o, cli.ExitWith(cli.ExitUnavailable, fmt.Errorf("--repository: %w", err))
	}
	return o, nil
}

// takeFaults listens for announcements until ctx ends; stop waits for that.
func (v *verifyFlags) takeFaults(ctx context.Context, faults *verify.Faults, log *slog.Logger) (stop func(), err error) {
	note := func(name, state string) error {
		switch {
		case name == "":
			return errors.New("name the fault")
		case state == "begin":
			faults.Begin(name)
		case state != "end":
			return fmt.Errorf("state %q is unknown; use begin or end", state)
		case !faults.End(name):
			return fmt.Errorf("fault %q has not begun", name)
		}
		log.Info("fault", "name", name, "state", state)
		return nil
	}
	var ends []func()
	stop = func() {
		for _, f := range ends {
			f()
		}
	}
	if v.faultListen != "" {
		ln, err := net.Listen("tcp", v.faultListen)
		if err != nil {
			return nil, fmt.Errorf("--fault-listen: %w", err)
		}
		mux := http.NewServeMux()
		mux.HandleFunc("POST /faults/{state}", func(w http.ResponseWriter, r *http.Request) {
			if err := note(r.FormValue("name"), r.PathValue("state")); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		})
		srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(ln) }()
		ends = append(ends, func() { _ = srv.Close(); <-done })
		log.Info("takes announcements of faults", "url", "http://"+ln.Addr().String()+"/faults/begin?name=...")
	}
	if v.faultFile != "" {
		f, err := os.OpenFile(v.faultFile, os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			stop()
			return nil, fmt.Errorf("--fault-file: %w", err)
		}
		done := make(chan struct{})
		go func() { defer close(done); defer f.Close(); tailFaults(ctx, f, note, log) }()
		ends = append(ends, func() { <-done })
	}
	return stop, nil
}

// tailFaults reads lines as they are appended.
func tailFaults(ctx context.Context, f io.Reader, note func(name, state string) error, log *slog.Logger) {
	r := bufio.NewReader(f)
	var begun string
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := r.ReadString('\n')
		begun += text
		if err != nil {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				continue
			}
		}
		var a struct{ Name, State string }
		if err = json.Unmarshal([]byte(begun), &a); err == nil {
			err = note(a.Name, a.State)
		}
		if err != nil {
			log.Warn("announcement of a fault is not understood", "line", strings.TrimSpace(begun), "error", err)
		}
		begun = ""
	}
}
