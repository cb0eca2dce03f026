package kubernetes

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/kubernetes"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// Profile is the way in which the BuildKit container is isolated.
type Profile string

const (
	// Rootless runs BuildKit as a plain user, without seccomp and AppArmor, because both would
	// forbid it to create user namespaces.
	Rootless Profile = "rootless"
	// UserNS runs BuildKit as root of a user namespace of the pod (hostUsers: false; Kubernetes
	// 1.33, or 1.30 with the feature gate).
	UserNS Profile = "userns"
	// Privileged runs BuildKit as root of the node. Builds can take control of the node.
	Privileged Profile = "privileged"
)

// Credentials provides the registry credentials for the proxy of a pod.
type Credentials interface {
	// Readable returns, by host, all credentials that a request with these rights may use. failed
	// holds an error for each host whose credential cannot be determined now.
	Readable(ctx context.Context, rights *buildsv1.Rights) (found map[string]proxy.Auth, failed map[string]error)
	// Own returns the credential of the install for a host that it pushes to; ok is false if there
	// is none.
	Own(ctx context.Context, host string) (auth proxy.Auth, ok bool, err error)
}

// Images are the images of the containers.
type Images struct {
	// Worker is the image of this service itself: `image-builder worker` and `image-builder
	// registry-proxy` run in it. It must be of this version.
	Worker string
	// BuildKit is moby/buildkit; for the profile Rootless, its rootless variant.
	BuildKit string
}

// PodOptions configures the pods.
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
	// StateSize limits the disk of BuildKit, SpoolSize that of the worker. Zero means no limit.
	StateSize, SpoolSize resource.Quantity
	// Cache is the volume for the disk of BuildKit, so that its cache outlives the pod. If nil, the
	// disk is an empty volume. BuildKit locks the volume: two pods must not share it at the same
	// time.
	Cache *corev1.VolumeSource
	// Patch is the JSON or YAML of a pod. It is merged into every pod last, as a strategic merge
	// patch. It cannot change the names and labels that the runtime needs.
	Patch []byte
}

// Options configures a Runtime.
type Options struct {
	// Client is the client of the Kubernetes API; see Connect.
	Client kubernetes.Interface
	// Namespace is the namespace of the pods.
	Namespace string
	// Install distinguishes the installs in one namespace. It must be a valid label value.
	Install string
	// Cluster returns the id of this node's cluster, or "" while the node belongs to none. The
	// runtime ignores pods of another cluster that uses the same Install. May be nil.
	Cluster func() string
	// Node is the name of this node, for the owner label.
	Node string
	Pod  PodOptions
	// Credentials is required.
	Credentials Credentials
	// ContextRef returns the location of an uploaded context (repository:tag). If nil, builds of
	// uploads are refused.
	ContextRef func(digest string) string
	// CacheRepository is the repository of the build cache; empty for no cache. CacheWrite lets
	// builds write to it.
	CacheRepository string
	CacheWrite      bool
	// Frontends, Networks, ContextBytes and ContextFiles are the options of package buildkit.
	Frontends, Networks []string
	ContextBytes        int64
	ContextFiles        int
	// Insecure, CA, Hosts, AllowHosts and AllowLoopback are the options of the registry client. CA
	// is in PEM.
	Insecure      []string
	CA            string
	Hosts         map[string]proxy.Host
	AllowHosts    []string
	AllowLoopback bool
	// HTTPProxy is the HTTP proxy between the pods and the registries; nil for a direct connection.
	HTTPProxy *proxy.HTTPProxy
	// MaxPods limits the pods of the install; further ones wait. The limit is not exact: a node
	// does not see a pod that another node creates at the same moment. A ResourceQuota is exact.
	// Zero means no limit.
	MaxPods int
	// PendingTimeout is how long a pod may wait for a node, for example in a cluster that scales
	// up, before its attempt fails; if zero, it waits until the deadline of the build. QuotaTimeout
	// is the same for a full quota of the namespace; 10 minutes if zero.
	PendingTimeout, QuotaTimeout time.Duration
	// ImageTimeout is how long the pull of an image may fail; 3 minutes if zero.
	ImageTimeout time.Duration
	// RightsTimeout is how long the API may refuse the account of this service for lack of rights,
	// which happens for a moment after an API server has started. It also limits how long a new pod
	// waits for registry credentials. 2 minutes if zero.
	RightsTimeout time.Duration
	// SilentTimeout is how long a running worker may be unreachable while the API reports no fault
	// of its pod; 10 minutes if zero.
	SilentTimeout time.Duration
	// Linger is how long a worker that has finished waits for an owner; 15 minutes if zero.
	Linger time.Duration
	// CopiesTimeout is how long the end of the output, and a worker without room for more output, wait
	// for copies of the log that make no progress; workload.CopiesTimeout if zero.
	CopiesTimeout time.Duration
	// SpoolBytes is the amount of output that a worker keeps, at least 16 MiB; 256 MiB if zero.
	SpoolBytes int64
	// Dial connects to a worker at ip:port; nil for a plain TCP connection.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Registerer registers the metrics; nil for none.
	Registerer prometheus.Registerer
	// Log is required.
	Log *slog.Logger

	// RenewInterval is the time between two checks for changed credentials of a running build; a
	// minute if zero.
	RenewInterval time.Duration
	// retryBase is the first pause between retries; 250 ms if zero.
	retryBase time.Duration
}
