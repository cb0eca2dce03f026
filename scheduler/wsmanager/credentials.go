package wsmanager

import (
	"context"
	"strings"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// RequestAuth returns the credentials of the request, except those for the host of the workspace's
// repository. That host belongs to the install: a request must not bring another identity for it,
// in whatever spelling.
func RequestAuth(_ context.Context, w *workload.Workload) (map[string]*imagebuilderv1.BasicAuth, error) {
	own, _, _ := strings.Cut(w.Ref, "/")
	out := map[string]*imagebuilderv1.BasicAuth{}
	for name, a := range w.Rights.GetAdditional() {
		if registryHost(name) != registryHost(own) {
			out[name] = a
		}
	}
	return out, nil
}

// registryHost returns the host that a key of a Docker configuration means: keys may be URLs, and
// Docker Hub has several names.
func registryHost(name string) string {
	name = strings.ToLower(strings.TrimSpace(name))
	if _, rest, ok := strings.Cut(name, "://"); ok {
		name = rest
	}
	name, _, _ = strings.Cut(strings.TrimLeft(name, "/"), "/")
	if _, host, ok := strings.Cut(name, "@"); ok {
		name = host
	}
	name = strings.TrimSuffix(name, ".")
	for _, port := range []string{":443", ":80"} {
		name = strings.TrimSuffix(name, port)
	}
	switch name {
	case "index.docker.io", "registry-1.docker.io", "registry.docker.io", "registry.hub.docker.com", "hub.docker.com", "docker.com":
		return "docker.io"
	}
	return name
}
