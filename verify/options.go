package verify

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// The profiles of load.
const (
	// ProfileInstant builds tiny images from references.
	ProfileInstant = "instant"
	// ProfileRef builds images of some layers from references.
	ProfileRef = "ref"
	// ProfileDockerfile builds Dockerfiles.
	ProfileDockerfile = "dockerfile"
	// ProfileMixed is 60 % instant, 30 % ref, 10 % Dockerfile.
	ProfileMixed = "mixed"
)

// Options say what to do to which cluster.
type Options struct {
	// Servers are the public addresses of the nodes, host:port.
	Servers []string
	TLS     *tls.Config
	Dial    []grpc.DialOption
	// Duration is how long builds are asked for.
	Duration time.Duration
	// Rate is how many, per second.
	Rate float64
	// Profile is what kind of builds; ProfileInstant if empty.
	Profile string
	// Readers follow the log of each build; half as many again read one in ten
	// when it has ended, every build's log is read once at the end.
	Readers int
	// Instant and Images are references to build from, of the profiles of those
	// names (Prepare makes them).
	Instant, Images []string
	// Base is an image with a shell for the steps of Dockerfiles; without it
	// they only copy.
	Base string
	// Auth is what every request carries.
	Auth *imagebuilderv1.RegistryAuth
	// Cancel is how many of a hundred builds are cancelled.
	Cancel int
	// InFlight is how many builds may be under way; 1,000 if zero.
	InFlight int
	// Patience is how long acknowledged builds may take to end, and how long a
	// client goes on trying; 2 minutes if zero.
	Patience time.Duration
	// Looker asks the registry; nil for one with the docker configuration of the
	// user.
	Looker Looker
	// Faults, if set, knows what is broken.
	Faults *Faults
	// Progress is told what happens, once in a while; nil for nobody.
	Progress *slog.Logger
}

func (o *Options) check() error {
	switch {
	case len(o.Servers) == 0:
		return errors.New("name the nodes to verify")
	case o.Duration <= 0:
		return fmt.Errorf("the duration is %s; it has to be positive", o.Duration)
	case o.Rate <= 0:
		return fmt.Errorf("the rate is %g builds a second; it has to be positive", o.Rate)
	case o.Cancel < 0 || o.Cancel > 100:
		return fmt.Errorf("%d of a hundred builds cannot be cancelled", o.Cancel)
	case o.Readers < 0:
		return fmt.Errorf("%d readers cannot follow a log", o.Readers)
	}
	if o.Profile == "" {
		o.Profile = ProfileInstant
	}
	need := map[string][]string{"instant": o.Instant, "ref": o.Images}
	switch o.Profile {
	case ProfileInstant:
		delete(need, "ref")
	case ProfileRef:
		delete(need, "instant")
	case ProfileDockerfile:
		clear(need)
	case ProfileMixed:
	default:
		return fmt.Errorf("profile %q is unknown; use ref, dockerfile, instant or mixed", o.Profile)
	}
	for name, images := range need {
		if len(images) == 0 {
			return fmt.Errorf("profile %s needs %s images to build from: name them, or a repository to push some to", o.Profile, name)
		}
	}
	if o.InFlight == 0 {
		o.InFlight = 1000
	}
	if o.Patience == 0 {
		o.Patience = 2 * time.Minute
	}
	if o.Faults == nil {
		o.Faults = &Faults{}
	}
	if o.Progress == nil {
		o.Progress = slog.New(slog.DiscardHandler)
	}
	if o.Looker == nil {
		o.Looker = DockerLooker{}
	}
	return nil
}
