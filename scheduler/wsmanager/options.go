package wsmanager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// TLS names the PEM files of the mutually authenticated connection to
// ws-manager. They are read again for every new connection, so that renewed
// certificates need no restart.
type TLS struct {
	CA, Cert, Key string
	// ServerName is the name in ws-manager's certificate; "ws-manager" if empty.
	ServerName string
}

// Images answers the image at exactly this ref in the install's own
// repositories, under the install's own credentials. Errors are
// *builds.ImageError; another error counts as a registry that cannot be asked.
type Images func(ctx context.Context, ref string) (builds.Image, error)

// AdditionalAuth answers the credentials, by registry host, that the build's
// proxy may use besides the pull secret. They reach the proxy, not the user's
// build.
type AdditionalAuth func(ctx context.Context, w *workload.Workload) (map[string]*imagebuilderv1.BasicAuth, error)

// Options configure a Runtime. Durations and sizes that are zero take their
// defaults.
type Options struct {
	// Address is host:port of ws-manager (config key wsman.address).
	Address string
	// TLS is the client's mutual TLS (wsman.tls); nil means plaintext.
	TLS *TLS
	// BuilderImage is the image of build workspaces (builderImage).
	BuilderImage string
	// SupervisorRef is the supervisor image that workspaces get where
	// Supervisor answers none.
	SupervisorRef string
	// Supervisor answers the supervisor image that the build's request named,
	// if set. A Workload does not carry it.
	Supervisor func(w *workload.Workload) string
	// Owner answers metadata.owner, who triggered the build, if set; otherwise
	// and where it answers "" it is DefaultOwner.
	Owner func(w *workload.Workload) string
	// PullSecret names the secret of the cluster whose .dockerconfigjson the
	// build's proxy uses (pullSecret); none if empty.
	PullSecret string
	// Images is required.
	Images Images
	// AdditionalAuth answers further credentials; if nil, the request's own
	// except one for the host of the workspace's repository.
	AdditionalAuth AdditionalAuth
	// Timeout is the time limit that ws-manager keeps for a build workspace;
	// 60 minutes.
	Timeout time.Duration
	// Debug turns on debug output of the supervisors.
	Debug bool
	// HTTP reads logs from supervisors. It must not have a Timeout, since logs
	// are streams. If nil, a client with the system's certificates is used.
	// Redirects are never followed: they would carry the owner token elsewhere.
	HTTP *http.Client
	// ReconcileEvery is how often the status of workspaces is asked for without
	// any other reason; 30 s.
	ReconcileEvery time.Duration
	// MissingAfter is how long ws-manager must deny that it has a workspace
	// that was started until that counts; 30 s.
	MissingAfter time.Duration
	// StopGrace is how long a workspace may be STOPPING until its end is judged
	// by what is known; 60 s.
	StopGrace time.Duration
	// Drain is how long the log may be read on after the end; 5 s.
	Drain time.Duration
	// ImageWait is how long the registry may not show the image of a build that
	// succeeded; 10 s.
	ImageWait time.Duration
	// CallTimeout limits each unary call; 30 s.
	CallTimeout time.Duration
	// MinBackoff and MaxBackoff limit the pause between two tries of the same
	// thing; 200 ms and 10 s.
	MinBackoff, MaxBackoff time.Duration
	// Dial adds options to the connection to ws-manager.
	Dial []grpc.DialOption
	// TerminalBuffer is the most that a terminal keeps for new readers, in
	// bytes, and what is remembered to compare with; 256 KiB. A value that is
	// too small only costs markers and repeats.
	TerminalBuffer int
	// ReplayWhole is the least that a terminal keeps: a replay that is shorter
	// is everything since the beginning. Only a node that took a build over
	// needs it, since it does not know the bytes that were stored; 64 KiB. A
	// value that is too great can lose output then.
	ReplayWhole int
	// ReplayQuiet is how long a terminal must say nothing for its replay to be
	// over; 500 ms.
	ReplayQuiet time.Duration
	// Log is required.
	Log *slog.Logger
}

// DefaultOwner is the owner of workspaces of builds whose requester is not
// known: ws-manager wants one.
const DefaultOwner = "image-builder"

// Validate completes the options and says what is wrong with them.
func (o *Options) Validate() error {
	switch {
	case o.Address == "":
		return errors.New("wsmanager: no address of ws-manager is configured: set wsman.address to host:port")
	case o.BuilderImage == "":
		return errors.New("wsmanager: no image for build workspaces is configured: set builderImage")
	case o.Images == nil || o.Log == nil:
		return errors.New("wsmanager: Images and Log are required")
	case o.TLS != nil && (o.TLS.CA == "" || o.TLS.Cert == "" || o.TLS.Key == ""):
		return errors.New("wsmanager: wsman.tls needs ca, crt and key")
	case o.HTTP != nil && o.HTTP.Timeout != 0:
		return errors.New("wsmanager: HTTP must not have a Timeout: logs are streams")
	}
	if o.AdditionalAuth == nil {
		o.AdditionalAuth = RequestAuth
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"Timeout", &o.Timeout, time.Hour},
		{"ReconcileEvery", &o.ReconcileEvery, 30 * time.Second},
		{"MissingAfter", &o.MissingAfter, 30 * time.Second},
		{"StopGrace", &o.StopGrace, time.Minute},
		{"Drain", &o.Drain, 5 * time.Second},
		{"ImageWait", &o.ImageWait, 10 * time.Second},
		{"CallTimeout", &o.CallTimeout, 30 * time.Second},
		{"MinBackoff", &o.MinBackoff, 200 * time.Millisecond},
		{"MaxBackoff", &o.MaxBackoff, 10 * time.Second},
		{"ReplayQuiet", &o.ReplayQuiet, 500 * time.Millisecond},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < 0 {
			return fmt.Errorf("wsmanager: %s is negative", d.name)
		}
	}
	if o.TerminalBuffer == 0 {
		o.TerminalBuffer = 256 << 10
	}
	if o.ReplayWhole == 0 {
		o.ReplayWhole = min(64<<10, o.TerminalBuffer)
	}
	if o.TerminalBuffer < 0 || o.TerminalBuffer > 16<<20 || o.ReplayWhole < 0 || o.ReplayWhole > o.TerminalBuffer {
		return errors.New("wsmanager: TerminalBuffer must be between 1 byte and 16 MiB, and ReplayWhole not greater")
	}
	return nil
}
