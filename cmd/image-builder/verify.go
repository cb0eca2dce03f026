package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/verify"
)

// verifyFlags are the flags of `verify`.
type verifyFlags struct {
	cli.Flags
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
		Use: "verify", Short: "Check a running cluster under load and during faults", Args: cobra.NoArgs,
		Long: `Checks a running cluster under load, also while other tools inject faults.

Clients on all nodes request builds, join and cancel them, read, and follow logs across
reconnects. verify then checks all responses: acknowledged builds end as expected, there is
one build per image, phases and epochs only grow, reads are as recent as promised (porcupine
looks for one order of all calls), all readers of a log get the same bytes, images are in the
registry, and no secret is readable.

Give --server the public address of every node. Builds are made from --image, or from small
images that verify first pushes to --repository. Only one verify at a time may use these
images. The credentials for the registry are those of the docker configuration of the user.

Announce faults to verify with POST /faults/begin?name=... and POST /faults/end?name=... to
--fault-listen, or with lines {"name":"...","state":"begin"} (or "end") at the end of
--fault-file.

Exit status: 0 every promise was kept, 1 a promise was broken or could not be checked,
2 wrong usage, 3 there were no observations, 130 interrupted.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return v.run(cmd) },
	}
	v.Register(cmd)
	f := cmd.Flags()
	f.Lookup("output").Usage = "output format: table, json or junit"
	f.DurationVar(&v.duration, "duration", time.Minute, "how long builds are requested")
	f.DurationVar(&v.patience, "patience", 2*time.Minute, "how long acknowledged builds may take to end after that")
	f.Float64Var(&v.rate, "rate", 20, "builds per second")
	f.StringVar(&v.profile, "profile", verify.ProfileInstant, "instant (tiny images), ref (images of several layers), dockerfile, or mixed")
	f.StringSliceVar(&v.images, "image", nil, "images to build from; none are pushed then")
	f.StringVar(&v.repository, "repository", "", "repository to push images to, registry/name")
	f.IntVar(&v.count, "images", 60, "number of images to push")
	f.StringVar(&v.base, "base", "", "image with a shell, for RUN steps of Dockerfiles; without it Dockerfiles only copy files")
	f.StringSliceVar(&v.insecure, "insecure-registry", nil, "registry hosts to reach over plain HTTP, in addition to hosts on loopback")
	f.StringSliceVar(&v.allowHosts, "allow-host", nil, "allow the install's credentials for these registries")
	f.IntVar(&v.readers, "readers", 2, "number of readers that follow the log of each build")
	f.IntVar(&v.cancel, "cancel", 5, "percentage of builds that are cancelled")
	f.StringVar(&v.record, "record", "", "write all observations to this file, as JSON lines")
	f.StringVar(&v.check, "check", "", "check the observations in this file instead of a cluster")
	f.StringVar(&v.html, "html", "", "write the timeline to this file, as an HTML page")
	f.StringVar(&v.faultListen, "fault-listen", "", "address for announcements of faults over HTTP")
	f.StringVar(&v.faultFile, "fault-file", "", "file with announcements of faults")
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
		if err := writeFile(v.record, e.Save); err != nil {
			return cli.ExitWith(cli.ExitUsage, err)
		}
	}
	r := verify.NewReport(e)
	if v.html != "" {
		if err := writeFile(v.html, r.HTML); err != nil {
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

// writeFile replaces a file with the output of write.
func writeFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return write(f)
}

// evidence returns the observations of a run, or those in the file of --check.
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
	if v.faultListen != "" {
		stop, err := o.Faults.Listen(v.faultListen, o.Progress)
		if err != nil {
			return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("--fault-listen: %w", err))
		}
		defer stop()
	}
	if v.faultFile != "" {
		stop, err := o.Faults.Tail(v.faultFile, o.Progress)
		if err != nil {
			return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("--fault-file: %w", err))
		}
		defer stop()
	}
	e, err := verify.Run(cmd.Context(), o)
	if e == nil {
		return nil, v.Explain(err)
	}
	return e, nil // an interrupted run has observations too
}

// options returns the options of a run. It pushes the images to build from unless they are given.
func (v *verifyFlags) options(cmd *cobra.Command) (o verify.Options, err error) {
	tls, err := v.TLS()
	if err != nil {
		return o, err
	}
	if v.profile != verify.ProfileDockerfile && len(v.images) == 0 && v.repository == "" {
		return o, cli.ExitWith(cli.ExitUsage, fmt.Errorf("profile %s builds from images: name images with --image, or a repository to push some to with --repository", v.profile))
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
	o.Progress.Info("pushing images to build from", "repository", v.repository, "images", v.count)
	if o.Instant, err = looker.Prepare(cmd.Context(), v.repository, v.count, 1, 1024); err == nil {
		o.Images, err = looker.Prepare(cmd.Context(), v.repository, v.count, 4, 256<<10)
	}
	if err != nil {
		return o, cli.ExitWith(cli.ExitUnavailable, fmt.Errorf("--repository: %w", err))
	}
	return o, nil
}
