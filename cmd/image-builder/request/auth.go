// Package request makes build requests from the command line: it reads the flags, credentials and
// secrets, and uploads the context. It does not send the build request.
package request

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// AuthFlags are the flags that name the registry credentials of a request.
type AuthFlags struct {
	file     string
	allowAll bool
	hosts    []string
}

// Register adds the flags to a command.
func (a *AuthFlags) Register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.file, "registry-auth", "", "docker config.json with credentials for this request")
	f.BoolVar(&a.allowAll, "allow-all", false, "allow the install's credentials for all registries")
	f.StringSliceVar(&a.hosts, "allow-host", nil, "allow the install's credentials for these registries")
}

// Auth reads the file of credentials and returns the credentials that a request may use.
func (a *AuthFlags) Auth() (*imagebuilderv1.RegistryAuth, error) {
	m := &imagebuilderv1.RegistryAuth{AllowAll: a.allowAll, AllowHosts: a.hosts}
	if a.file == "" {
		return m, nil
	}
	raw, err := os.ReadFile(a.file)
	if err != nil {
		return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("--registry-auth: %w", err))
	}
	var file struct {
		Auths map[string]struct{ Username, Password, Auth string }
	}
	if json.Unmarshal(raw, &file) != nil {
		return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("--registry-auth: %s is not a docker config.json", a.file))
	}
	m.Additional = map[string]*imagebuilderv1.BasicAuth{}
	for host, c := range file.Auths {
		if dec, err := base64.StdEncoding.DecodeString(c.Auth); err == nil && c.Auth != "" {
			c.Username, c.Password, _ = strings.Cut(string(dec), ":")
		}
		m.Additional[host] = &imagebuilderv1.BasicAuth{Username: c.Username, Password: c.Password}
	}
	return m, nil
}
