package kubernetes

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

var labelValue = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,40}[A-Za-z0-9])?$`)

// Validate sets defaults and returns an error that describes the first invalid option.
func (o *Options) Validate() error {
	if o.Client == nil || o.Credentials == nil || o.Log == nil {
		return errors.New("kubernetes: Client, Credentials and Log are required")
	}
	return o.Check()
}

// Check is like Validate, but does not require Client, Credentials and Log, which are not part of
// the configuration.
func (o *Options) Check() error {
	switch {
	case o.Namespace == "":
		return errors.New("kubernetes: no namespace is configured: name the one that the build pods go to")
	case !labelValue.MatchString(o.Install):
		return fmt.Errorf("kubernetes: the install name %q does not fit a label: use up to 42 letters, digits, dots and dashes", o.Install)
	case o.Pod.Images.Worker == "" || o.Pod.Images.BuildKit == "":
		return errors.New("kubernetes: the images of worker and BuildKit are required")
	case o.MaxPods < 0:
		return fmt.Errorf("kubernetes: the maximum number of pods must not be negative, but is %d: use 0 for no limit", o.MaxPods)
	}
	setDefault(&o.Pod.Profile, Rootless)
	if !slices.Contains([]Profile{Rootless, UserNS, Privileged}, o.Pod.Profile) {
		return fmt.Errorf("kubernetes: the security profile %q is not known: use rootless, userns or privileged", o.Pod.Profile)
	}
	setDefault(&o.Pod.TerminationSeconds, 30)
	setDefault(&o.QuotaTimeout, 10*time.Minute)
	setDefault(&o.ImageTimeout, 3*time.Minute)
	setDefault(&o.RightsTimeout, 2*time.Minute)
	setDefault(&o.SilentTimeout, 10*time.Minute)
	setDefault(&o.Linger, 15*time.Minute)
	setDefault(&o.CopiesTimeout, workload.CopiesTimeout)
	setDefault(&o.SpoolBytes, 256<<20)
	setDefault(&o.RenewInterval, time.Minute)
	setDefault(&o.retryBase, 250*time.Millisecond)
	_, err := o.Pod.patch()
	return err
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
