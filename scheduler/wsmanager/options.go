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

// TLS holds the paths of the PEM files for the mutually authenticated connection to ws-manager. The
// files are read for every new connection, so that renewed certificates need no restart.
type TLS struct {
	CA, Cert, Key string
	// ServerName is the name in ws-manager's certificate; "ws-manager" if empty.
	ServerName string
}

// Images returns the image at exactly this ref in the repositories of the install, read with the
// credentials of the install. Errors are *builds.ImageError; any other error means that the
// registry cannot be reached.
type Images func(ctx context.Context, ref string) (builds.Image, error)

// AdditionalAuth returns the credentials, by registry host, that the proxy of the build may use in
// addition to the pull secret. Only the proxy gets them; the build of the user does not.
type AdditionalAuth func(ctx context.Context, w *workload.Workload) (map[string]*imagebuilderv1.BasicAuth, error)

// Options configures a Runtime. Durations and sizes of zero mean the default.
type Options struct {
	// Address is the host:port of ws-manager (config key wsman.address).
	Address string
	// TLS is the client's mutual TLS (wsman.tls); nil means plaintext.
	TLS *TLS
	// BuilderImage is the image of build workspaces (builderImage).
	BuilderImage string
	// SupervisorRef is the supervisor image of a workspace if Supervisor is nil or returns "".
	SupervisorRef string
	// Supervisor, if set, returns the supervisor image that the request of the build named.
	Supervisor func(w *workload.Workload) string
	// Owner, if set, returns metadata.owner, the user who requested the build. If it is nil or
	// returns "", the owner is DefaultOwner.
	Owner func(w *workload.Workload) string
	// PullSecret is the name of the cluster's secret whose .dockerconfigjson the proxy of the build
	// uses (pullSecret); none if empty.
	PullSecret string
	// Images is required.
	Images Images
	// AdditionalAuth returns further credentials. If nil, RequestAuth is used.
	AdditionalAuth AdditionalAuth
	// Timeout is the time limit that ws-manager enforces for a build workspace; 60 minutes.
	Timeout time.Duration
	// Debug turns on debug output of the supervisors.
	Debug bool
	// HTTP reads logs from supervisors. It must not have a Timeout, because logs are streams. If
	// nil, a client with the system's certificates is used. Redirects are never followed, because
	// they would send the owner token to another host.
	HTTP *http.Client
	// ReconcileInterval is the time between two periodic reads of the status of workspaces; 30 s.
	ReconcileInterval time.Duration
	// MissingAfter is how long ws-manager must report that a started workspace does not exist,
	// before the runtime accepts this; 30 s.
	MissingAfter time.Duration
	// StopGrace is how long a workspace may be STOPPING. After that, its end is judged from the
	// updates so far; 60 s.
	StopGrace time.Duration
	// DrainTimeout is how long the log is still read after the end; 5 s.
	DrainTimeout time.Duration
	// ImageTimeout is how long the registry may lack the image of a build that succeeded; 10 s.
	ImageTimeout time.Duration
	// CallTimeout limits each unary call; 30 s.
	CallTimeout time.Duration
	// MinBackoff and MaxBackoff limit the pause between two retries; 200 ms and 10 s.
	MinBackoff, MaxBackoff time.Duration
	// Dial holds additional options for the connection to ws-manager.
	Dial []grpc.DialOption
	// TerminalBuffer is the maximum output that a terminal keeps for new readers, in bytes. The
	// runtime keeps the same amount to compare with. 256 KiB. A value that is too small only causes
	// markers and repeated output.
	TerminalBuffer int
	// ReplayWhole is the minimum output that a terminal keeps, in bytes: a shorter replay is the
	// whole output since the start. Only a node that has adopted a build needs it, because it does
	// not know the stored bytes. 64 KiB. If the value is too large, output may be lost.
	ReplayWhole int
	// ReplayQuiet is how long a terminal must send nothing before its replay counts as complete;
	// 500 ms.
	ReplayQuiet time.Duration
	// Log is required.
	Log *slog.Logger
}

// DefaultOwner is the owner of workspaces whose requester is not known: ws-manager requires an
// owner.
const DefaultOwner = "image-builder"

// Validate sets defaults and returns an error that describes the first invalid option.
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
		{"ReconcileInterval", &o.ReconcileInterval, 30 * time.Second},
		{"MissingAfter", &o.MissingAfter, 30 * time.Second},
		{"StopGrace", &o.StopGrace, time.Minute},
		{"DrainTimeout", &o.DrainTimeout, 5 * time.Second},
		{"ImageTimeout", &o.ImageTimeout, 10 * time.Second},
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
