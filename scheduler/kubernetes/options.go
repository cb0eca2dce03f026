package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/kubernetes"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// Profile says how the BuildKit container is isolated.
type Profile string

const (
	// Rootless runs BuildKit as a plain user, without seccomp and AppArmor,
	// which keep it from making user namespaces.
	Rootless Profile = "rootless"
	// UserNS runs BuildKit as root of a user namespace of the pod
	// (hostUsers: false; Kubernetes 1.33, or 1.30 with the feature gate).
	UserNS Profile = "userns"
	// Privileged runs BuildKit as root of the node. Builds can take over it.
	Privileged Profile = "privileged"
)

// Credentials are the registry credentials that go into a pod's proxy.
type Credentials interface {
	// Readable answers, by host, all that a request with these rights may use, and
	// why that of other hosts cannot be told now.
	Readable(ctx context.Context, rights *buildsv1.Rights) (found map[string]proxy.Auth, failed map[string]error)
	// Own answers what the install has for a host that it pushes to; ok is
	// false for nothing.
	Own(ctx context.Context, host string) (auth proxy.Auth, ok bool, err error)
}

// Images of the containers.
type Images struct {
	// Worker is this service's own image: `image-builder worker` and
	// `image-builder registry-proxy` run in it. It must be of this version.
	Worker string
	// BuildKit is moby/buildkit, in its rootless variant for Rootless.
	BuildKit string
}

// PodOptions say what pods look like.
type PodOptions struct {
	Images             Images
	ImagePullPolicy    corev1.PullPolicy
	ImagePullSecrets   []string
	Profile            Profile
	ServiceAccount     string
	Worker             corev1.ResourceRequirements
	BuildKit           corev1.ResourceRequirements
	Proxy              corev1.ResourceRequirements
	NodeSelector       map[string]string
	Tolerations        []corev1.Toleration
	Affinity           *corev1.Affinity
	PriorityClass      string
	RuntimeClass       string
	SchedulerName      string
	Labels             map[string]string
	Annotations        map[string]string
	TerminationSeconds int64
	// StateSize bounds BuildKit's disk, SpoolSize the worker's; unbounded if
	// zero.
	StateSize, SpoolSize resource.Quantity
	// Cache is the volume of BuildKit's disk, so that its cache outlives the
	// pod; an empty one if nil. BuildKit locks it: it must not be shared by two
	// pods at a time.
	Cache *corev1.VolumeSource
	// Patch is merged into every pod last, strategically: JSON or YAML of a
	// pod. It cannot change names and labels that the runtime needs.
	Patch []byte
}

// Options configure a Runtime.
type Options struct {
	// Client is the API; see Connect.
	Client kubernetes.Interface
	// Namespace is that of the pods.
	Namespace string
	// Install tells installations in one namespace apart. It is a label's value.
	Install string
	// Cluster answers the id of this node's cluster, "" while it is in none: pods
	// of another one that has the same Install are left alone. May be nil.
	Cluster func() string
	// Node is this node's name, for the owner label.
	Node string
	Pod  PodOptions
	// Credentials is required.
	Credentials Credentials
	// ContextRef answers where an uploaded context is (repository:tag); without
	// it builds of uploads are refused.
	ContextRef func(digest string) string
	// CacheRepository is the repository of the build cache, none if empty.
	// CacheWrite lets builds write to it.
	CacheRepository string
	CacheWrite      bool
	// Frontends, Networks, ContextBytes and ContextFiles are as for BuildKit.
	Frontends, Networks []string
	ContextBytes        int64
	ContextFiles        int
	// Insecure, CA, AllowHosts and AllowLoopback are as for the registry client;
	// CA is in PEM.
	Insecure      []string
	CA            string
	Hosts         map[string]proxy.Host
	AllowHosts    []string
	AllowLoopback bool
	// HTTPProxy is the way of the pods' proxies to registries; nil for the
	// direct one.
	HTTPProxy *proxy.HTTPProxy
	// MaxPods bounds the pods of the install: further ones wait. Nodes count on
	// their own: a pod that another one creates at the same moment is not seen. A
	// ResourceQuota is exact. No bound if zero.
	MaxPods int
	// PendingTimeout is how long a pod may wait for a place (as for a cluster
	// that scales up) before its attempt fails; until the build's deadline if
	// zero. QuotaTimeout is that for a namespace that is full; 10 minutes.
	PendingTimeout, QuotaTimeout time.Duration
	// ImageTimeout is how long images may fail to be pulled; 3 minutes.
	ImageTimeout time.Duration
	// RightsTimeout is how long the API may say that this service's account has
	// no right to do what it needs to do, as one that has just started does, and
	// how long a new pod waits for registry credentials; 2 minutes.
	RightsTimeout time.Duration
	// SilentTimeout is how long a running worker may be out of reach while the
	// API shows nothing wrong with its pod; 10 minutes.
	SilentTimeout time.Duration
	// Linger is how long a worker that has finished waits for an owner; 15
	// minutes.
	Linger time.Duration
	// SpoolBytes is how much output a worker keeps; 256 MiB.
	SpoolBytes int64
	// Dial connects to a worker at ip:port; nil for the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Registerer gets the metrics; nil for none.
	Registerer prometheus.Registerer
	// Log is required.
	Log *slog.Logger

	// RenewEvery is the pause between looks whether the credentials of a build
	// that runs have changed; a minute.
	RenewEvery time.Duration
	// retryBase is the first pause between tries; 250 ms.
	retryBase time.Duration
}

var labelValue = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,40}[A-Za-z0-9])?$`)

// Validate completes the options and says what is wrong with them.
func (o *Options) Validate() error {
	if o.Client == nil || o.Credentials == nil || o.Log == nil {
		return errors.New("kubernetes: Client, Credentials and Log are required")
	}
	return o.Check()
}

// Check is Validate without what is no configuration: Client, Credentials and
// Log.
func (o *Options) Check() error {
	switch {
	case o.Namespace == "":
		return errors.New("kubernetes: no namespace is configured: name the one that the build pods go to")
	case !labelValue.MatchString(o.Install):
		return fmt.Errorf("kubernetes: the install name %q does not fit a label: use up to 42 letters, digits, dots and dashes", o.Install)
	case o.Pod.Images.Worker == "" || o.Pod.Images.BuildKit == "":
		return errors.New("kubernetes: the images of worker and BuildKit are required")
	case o.MaxPods < 0:
		return fmt.Errorf("kubernetes: at most %d pods makes no sense: use 0 for no bound", o.MaxPods)
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
	setDefault(&o.SpoolBytes, 256<<20)
	setDefault(&o.RenewEvery, time.Minute)
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
