package podapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"google.golang.org/protobuf/encoding/protojson"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Job is what the worker of a pod has to do. It is a file of the pod's Secret
// that is mounted in the worker alone. It holds the secrets that the build
// mounts, and no credential of a registry: those are the proxy's.
type Job struct {
	BuildID  string    `json:"buildId"`
	Attempt  uint32    `json:"attempt"`
	Ref      string    `json:"ref"`
	BaseRef  string    `json:"baseRef,omitempty"`
	Deadline time.Time `json:"deadline,omitzero"`
	// Source and Secrets are protobuf messages in JSON. Secrets are those for
	// the build and for git.
	Source  json.RawMessage `json:"source"`
	Secrets json.RawMessage `json:"secrets"`

	// Listen is where the worker serves its output, as in ":8443".
	Listen string `json:"listen"`
	// Token is what the owner presents to the worker.
	Token string `json:"token"`
	// Certificate and Key are of the worker's server, in PEM. The owner trusts
	// this certificate and no other.
	Certificate string `json:"certificate"`
	Key         string `json:"key"`

	// ProxyAddr is the registry proxy, host:port on loopback, ProxyToken what
	// it wants to see.
	ProxyAddr  string `json:"proxyAddr"`
	ProxyToken string `json:"proxyToken"`
	// BuildKit is the daemon's address, unix:///path.
	BuildKit string `json:"buildkit"`
	// CacheRepository is where the build cache is, "" for nowhere.
	CacheRepository string `json:"cacheRepository,omitempty"`
	// ContextRef is where the uploaded context is, "" if there is none.
	ContextRef   string   `json:"contextRef,omitempty"`
	Frontends    []string `json:"frontends,omitempty"`
	Networks     []string `json:"networks,omitempty"`
	ContextBytes int64    `json:"contextBytes,omitempty"`
	ContextFiles int      `json:"contextFiles,omitempty"`
	// AllowHosts and AllowLoopback say which addresses that come from requests
	// (git servers, downloads) may be internal.
	AllowHosts    []string `json:"allowHosts,omitempty"`
	AllowLoopback bool     `json:"allowLoopback,omitempty"`

	// Traceparent is the span that the build's spans in BuildKit are below, ""
	// for none.
	Traceparent string `json:"traceparent,omitempty"`

	// Dir is a folder for output and contexts.
	Dir string `json:"dir"`
	// SpoolBytes bounds the output that is kept; the build waits beyond it.
	SpoolBytes int64 `json:"spoolBytes"`
	// Linger is how long the worker waits after the end for its output to be
	// fetched.
	Linger time.Duration `json:"linger"`
	// TerminationPath is the file of the container's termination message.
	TerminationPath string `json:"terminationPath"`
}

// SetWorkload puts a workload into the job, without the registry credentials
// of its request.
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

// Workload is the inverse of SetWorkload.
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

// ReadJob reads a job file. Unknown fields are errors: worker and owner are of
// the same version, as the image of the worker is the owner's.
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
