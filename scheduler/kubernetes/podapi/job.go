package podapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Job describes the build that the worker of a pod executes. It is a file in the Secret of the pod,
// and only the worker mounts this Secret. It holds the secrets of the build but no registry
// credentials: those are in the configuration of the proxy.
type Job struct {
	BuildID  string    `json:"buildId"`
	Attempt  uint32    `json:"attempt"`
	Ref      string    `json:"ref"`
	BaseRef  string    `json:"baseRef,omitempty"`
	Deadline time.Time `json:"deadline,omitzero"`
	// Source and Secrets are protobuf messages in JSON. Secrets holds the build secrets and the git
	// credential.
	Source  json.RawMessage `json:"source"`
	Secrets json.RawMessage `json:"secrets"`

	// Listen is the address of the worker's server, such as ":8443".
	Listen string `json:"listen"`
	// Token is the token that the owner presents to the worker.
	Token string `json:"token"`
	// Certificate and Key belong to the server of the worker, in PEM. The owner trusts only this
	// certificate.
	Certificate string `json:"certificate"`
	Key         string `json:"key"`

	// ProxyAddr is the address of the registry proxy, host:port on loopback. ProxyToken is the
	// token that the proxy requires.
	ProxyAddr  string `json:"proxyAddr"`
	ProxyToken string `json:"proxyToken"`
	// BuildKit is the address of the daemon, unix:///path.
	BuildKit string `json:"buildkit"`
	// CacheRepository is the repository of the build cache; "" for no cache.
	CacheRepository string `json:"cacheRepository,omitempty"`
	// ContextRef is the location of the uploaded context; "" if there is none.
	ContextRef string `json:"contextRef,omitempty"`
	// Frontends and Networks are the options of package buildkit. ContextBytes (in bytes) and
	// ContextFiles limit a context.
	Frontends    []string `json:"frontends,omitempty"`
	Networks     []string `json:"networks,omitempty"`
	ContextBytes int64    `json:"contextBytes,omitempty"`
	ContextFiles int      `json:"contextFiles,omitempty"`
	// AllowHosts lists the internal hosts that requests may name for git servers and downloads.
	// AllowLoopback permits loopback addresses too.
	AllowHosts    []string `json:"allowHosts,omitempty"`
	AllowLoopback bool     `json:"allowLoopback,omitempty"`

	// Traceparent is the parent of the build's trace spans in BuildKit; "" for none.
	Traceparent string `json:"traceparent,omitempty"`

	// Dir is a folder for output and contexts.
	Dir string `json:"dir"`
	// SpoolBytes limits the output that the worker keeps. The build blocks at the limit. Less than
	// 16 MiB count as 16 MiB.
	SpoolBytes int64 `json:"spoolBytes"`
	// Linger is how long the worker waits after the end of the build until an owner has fetched its
	// output. In JSON it is a number of nanoseconds.
	Linger time.Duration `json:"linger"`
	// TerminationPath is the file of the container's termination message.
	TerminationPath string `json:"terminationPath"`
}

// SetWorkload copies a workload into the job, without the registry credentials of its request.
func (j *Job) SetWorkload(w *workload.Workload) error {
	source, err := protojson.Marshal(w.Source)
	if err != nil {
		return fmt.Errorf("encode the source of %s: %w", w.Name(), err)
	}
	secrets, err := protojson.Marshal(&buildsv1.Secrets{Build: w.Secrets.GetBuild(), Git: w.Secrets.GetGit()})
	if err != nil {
		return fmt.Errorf("encode the secrets of %s", w.Name())
	}
	j.BuildID, j.Attempt, j.Ref, j.BaseRef, j.Deadline = w.BuildID, w.Attempt, w.Ref, w.BaseRef, w.LeadersDeadline
	if j.Deadline.IsZero() {
		j.Deadline = w.Deadline
	}
	j.Source, j.Secrets = source, secrets
	return nil
}

// Workload returns the workload that SetWorkload stored, without registry credentials.
func (j *Job) Workload() (*workload.Workload, error) {
	w := &workload.Workload{
		BuildID: j.BuildID, Attempt: j.Attempt, Ref: j.Ref, BaseRef: j.BaseRef, Deadline: j.Deadline,
		Source: &imagebuilderv1.Source{}, Secrets: &buildsv1.Secrets{}, Rights: &buildsv1.Rights{},
	}
	if err := protojson.Unmarshal(j.Source, w.Source); err != nil {
		return nil, fmt.Errorf("decode the source of the job: %w", err)
	}
	if err := protojson.Unmarshal(j.Secrets, w.Secrets); err != nil {
		return nil, fmt.Errorf("decode the secrets of the job: they are not as expected")
	}
	return w, nil
}

// ReadJob reads a job file. Unknown fields are errors, because the worker runs the image of its
// owner's version.
func ReadJob(path string) (*Job, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the job: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	j := &Job{}
	if err := dec.Decode(j); err != nil {
		return nil, fmt.Errorf("decode the job at %s (is the worker's image of the same version as the service?): %w", path, err)
	}
	return j, nil
}
