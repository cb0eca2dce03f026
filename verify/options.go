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
	// ProfileInstant builds images of one small layer from references.
	ProfileInstant = "instant"
	// ProfileRef builds images of several layers from references.
	ProfileRef = "ref"
	// ProfileDockerfile builds Dockerfiles.
	ProfileDockerfile = "dockerfile"
	// ProfileMixed is 60 % instant, 30 % ref, 10 % Dockerfile.
	ProfileMixed = "mixed"
)

// Options configure a run.
type Options struct {
	// Servers are the public addresses of all nodes, host:port. Required.
	Servers []string
	// TLS encrypts the connections; plain text if nil.
	TLS *tls.Config
	// Dial are further options of the connections.
	Dial []grpc.DialOption
	// Duration is the time during which builds are requested. Required.
	Duration time.Duration
	// Rate is the number of requests per second. Required.
	Rate float64
	// Profile is the kind of builds; ProfileInstant if empty.
	Profile string
	// Readers is the number of readers that follow the log of each build. One further reader reads
	// the log after the end of the build, and up to 500 logs are read again after the load.
	Readers int
	// Instant and Images are the references from which the profiles instant and ref build. Prepare
	// pushes such images.
	Instant, Images []string
	// Base is an image with a shell for the RUN steps of Dockerfiles. Without it they have only COPY
	// steps.
	Base string
	// Auth is the registry auth of every request.
	Auth *imagebuilderv1.RegistryAuth
	// Cancel is the percentage of builds that are cancelled, 0 to 100.
	Cancel int
	// InFlight is the greatest number of builds in progress; 1,000 if zero. Requests beyond it are
	// skipped.
	InFlight int
	// Patience limits the retries of a call, and the time after Duration until all acknowledged
	// builds must have ended; 2 minutes if zero.
	Patience time.Duration
	// Looker looks up published images; a DockerLooker if nil.
	Looker Looker
	// Faults records the faults that the caller injects; optional.
	Faults *Faults
	// Progress receives messages about the progress; optional.
	Progress *slog.Logger
}

// check validates the options and sets the defaults.
func (o *Options) check() error {
	switch {
	case len(o.Servers) == 0:
		return errors.New("no node to verify: name at least one server")
	case o.Duration <= 0:
		return fmt.Errorf("the duration is %s; it must be positive", o.Duration)
	case o.Rate <= 0:
		return fmt.Errorf("the rate is %g builds per second; it must be positive", o.Rate)
	case o.Cancel < 0 || o.Cancel > 100:
		return fmt.Errorf("the percentage of cancelled builds is %d; it must be between 0 and 100", o.Cancel)
	case o.Readers < 0:
		return fmt.Errorf("the number of readers is %d; it must not be negative", o.Readers)
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
			return fmt.Errorf("profile %s needs %s images to build from: name images, or a repository to which verify pushes some", o.Profile, name)
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
