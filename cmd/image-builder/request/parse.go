package request

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
)

// splitGitURL splits the URL of a repository from its fragment: `#REF`, `#REF:DIR` or `#:DIR`, as in
// `docker build`. target is the value of --git-target.
func splitGitURL(url, target string) (uri, ref, dir string, err error) {
	uri, fragment, _ := strings.Cut(url, "#")
	ref, dir, _ = strings.Cut(fragment, ":")
	if ref != "" && target != "" && ref != target {
		return "", "", "", fmt.Errorf("the URL names %q and --git-target names %q: give one of them", ref, target)
	}
	if dir = strings.Trim(dir, "/"); dir != "" && !filepath.IsLocal(dir) {
		return "", "", "", fmt.Errorf("the folder %q of the URL is outside of the repository", dir)
	}
	return uri, cmp.Or(ref, target), dir, nil
}

// parseSecrets reads secrets from files and environment variables: id=ID,src=FILE or id=ID,env=NAME.
func parseSecrets(list []string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, s := range list {
		fields := map[string]string{}
		for _, part := range strings.Split(s, ",") {
			k, v, _ := strings.Cut(part, "=")
			fields[k] = v
		}
		id, src, env := fields["id"], cmp.Or(fields["src"], fields["source"]), fields["env"]
		switch {
		case id == "":
			return nil, cli.ExitWith(cli.ExitUsage, errors.New("--secret: the id is missing; write id=ID,src=FILE or id=ID,env=NAME"))
		case src != "":
			raw, err := os.ReadFile(src)
			if err != nil {
				return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("--secret %s: %w", id, err))
			}
			out[id] = raw
		default:
			v, ok := os.LookupEnv(cmp.Or(env, id))
			if !ok {
				return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("--secret %s: the environment has no %s", id, cmp.Or(env, id)))
			}
			out[id] = []byte(v)
		}
	}
	return out, nil
}

// ParseLabels returns the labels of flags of the form key=value.
func ParseLabels(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, l := range list {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("label %q is not of the form key=value", l))
		}
		out[k] = v
	}
	return out, nil
}
