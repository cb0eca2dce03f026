package wsmanager

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Paths and addresses inside of a build workspace.
const (
	workspaceDir = "/workspace"
	proxyTarget  = "localhost:8080/target:latest"
	proxyBase    = "localhost:8080/base"
)

// request returns the request to start the workspace of a workload.
func (r *Runtime) request(ctx context.Context, w *workload.Workload) (*wsman.StartWorkspaceRequest, error) {
	init, err := initializer(w)
	if err != nil {
		return nil, err
	}
	auth, err := r.opts.AdditionalAuth(ctx, w)
	if err != nil {
		return nil, fmt.Errorf("find the credentials for the build's proxy: %w", err)
	}
	id := WorkspaceID(w.BuildID, w.Attempt)
	dockerfile, contextDir := paths(w.Source.GetDockerfile())
	return &wsman.StartWorkspaceRequest{
		Id: id, ServicePrefix: id, Type: wsman.WorkspaceType_IMAGEBUILD,
		Metadata: &wsman.WorkspaceMetadata{
			Owner: r.owner(w), MetaId: w.BuildID,
			Annotations: map[string]string{"ref": w.Ref, "baseref": w.BaseRef, managedBy: managedByValue},
		},
		Spec: &wsman.StartWorkspaceSpec{
			WorkspaceImage:    r.opts.BuilderImage,
			IdeImage:          &wsman.IDEImage{WebRef: r.opts.BuilderImage, SupervisorRef: r.supervisorRef(w)},
			Initializer:       init,
			Timeout:           r.opts.Timeout.String(),
			WorkspaceLocation: contextDir,
			Envvars:           r.environment(w, dockerfile, contextDir, auth),
		},
	}, nil
}

func (r *Runtime) owner(w *workload.Workload) string {
	if r.opts.Owner != nil {
		if o := r.opts.Owner(w); o != "" {
			return o
		}
	}
	return DefaultOwner
}

func (r *Runtime) supervisorRef(w *workload.Workload) string {
	if r.opts.Supervisor != nil {
		if ref := r.opts.Supervisor(w); ref != "" {
			return ref
		}
	}
	return r.opts.SupervisorRef
}

// paths returns the paths of the Dockerfile and the context inside of the workspace. If the source
// names no context, it is the folder of the Dockerfile.
func paths(d *imagebuilderv1.DockerfileSource) (dockerfile, contextDir string) {
	file := d.GetDockerfilePath()
	if file == "" {
		file = "Dockerfile"
	}
	dockerfile = path.Join(workspaceDir, file)
	if c := d.GetContextPath(); c != "" {
		return dockerfile, path.Join(workspaceDir, c)
	}
	if d == nil {
		return dockerfile, workspaceDir
	}
	return dockerfile, path.Dir(dockerfile)
}

// environment returns the variables that the builder image reads (docs/gitpod-contract.md, section
// 3).
func (r *Runtime) environment(w *workload.Workload, dockerfile, contextDir string, auth map[string]*imagebuilderv1.BasicAuth) []*wsman.EnvironmentVariable {
	base := proxyBase + ":latest"
	if _, digest, ok := strings.Cut(w.BaseRef, "@"); ok {
		base = proxyBase + "@" + digest
	}
	env := []*wsman.EnvironmentVariable{
		{Name: "BOB_TARGET_REF", Value: proxyTarget},
		{Name: "BOB_BASE_REF", Value: base},
		{Name: "BOB_BUILD_BASE", Value: strconv.FormatBool(w.Source.GetDockerfile() != nil)},
		{Name: "BOB_DOCKERFILE_PATH", Value: dockerfile},
		{Name: "BOB_CONTEXT_DIR", Value: contextDir},
		{Name: "GITPOD_TASKS", Value: `[{"name": "build", "init": "sudo -E /app/bob build"}]`},
		{Name: "WORKSPACEKIT_RING2_ENCLAVE", Value: "/app/bob proxy"},
		{Name: "WORKSPACEKIT_BOBPROXY_BASEREF", Value: w.BaseRef},
		{Name: "WORKSPACEKIT_BOBPROXY_TARGETREF", Value: w.Ref},
	}
	if r.opts.PullSecret != "" {
		env = append(env, &wsman.EnvironmentVariable{
			Name:   "WORKSPACEKIT_BOBPROXY_AUTH",
			Secret: &wsman.EnvironmentVariable_SecretKeyRef{SecretName: r.opts.PullSecret, Key: ".dockerconfigjson"},
		})
	}
	return append(env,
		&wsman.EnvironmentVariable{Name: "WORKSPACEKIT_BOBPROXY_ADDITIONALAUTH", Value: authJSON(auth)},
		&wsman.EnvironmentVariable{Name: "SUPERVISOR_DEBUG_ENABLE", Value: strconv.FormatBool(r.opts.Debug)},
	)
}

// authJSON encodes a map of registry host to credential in the format of Docker.
func authJSON(auth map[string]*imagebuilderv1.BasicAuth) string {
	type entry struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Auth     string `json:"auth"`
	}
	out := make(map[string]entry, len(auth))
	for host, a := range auth {
		out[host] = entry{a.GetUsername(), a.GetPassword(), base64.StdEncoding.EncodeToString([]byte(a.GetUsername() + ":" + a.GetPassword()))}
	}
	b, err := json.Marshal(out)
	if err != nil {
		panic(err) // strings always marshal
	}
	return string(b)
}
