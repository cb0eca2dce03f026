package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// A credential helper is a program docker-credential-NAME in PATH. It reads the server from its
// input and prints a credential in JSON (protocol of docker-credential-helpers, command get).

// helperName matches the part of a program name after docker-credential-. A config file names a
// program in PATH, never a path.
var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

const maxHelperBytes = 64 << 10 // bound of each output stream of a helper

// helperNotFound is printed by a helper that has no credential (docker-credential-helpers,
// credentials.errCredentialsNotFoundMessage).
const helperNotFound = "credentials not found"

// tokenUser is the user name by which a helper marks an identity token, as in docker's client.
const tokenUser = "<token>"

// runHelper runs a helper to get the login for a server. If the helper has no login for the server,
// runHelper returns the empty Login and no error.
func runHelper(ctx context.Context, name, server string) (Login, error) {
	if !helperName.MatchString(name) {
		return Login{}, &kindError{kind: Unavailable, text: "its name is not valid for a docker-credential program"}
	}
	cmd := exec.CommandContext(ctx, "docker-credential-"+name, "get")
	cmd.Stdin = strings.NewReader(server)
	out, errs := &boundedBuffer{max: maxHelperBytes}, &boundedBuffer{max: maxHelperBytes}
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.WaitDelay = time.Second // children may keep the pipes open; they are not waited for longer
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return Login{}, ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return Login{}, &kindError{kind: Unavailable, text: "the program is not in PATH"}
	case err != nil && (strings.Contains(out.String(), helperNotFound) || strings.Contains(errs.String(), helperNotFound)):
		return Login{}, nil
	case err != nil:
		text := "it failed"
		if cmd.ProcessState != nil {
			text = fmt.Sprintf("it ended with %s", cmd.ProcessState)
		}
		return Login{}, &kindError{kind: Unavailable, text: text}
	case out.over:
		return Login{}, &kindError{kind: Unavailable, text: "it printed more than 64 KiB"}
	}
	var printed struct{ Username, Secret string }
	if err := json.Unmarshal([]byte(out.String()), &printed); err != nil {
		return Login{}, &kindError{kind: Unavailable, text: "it did not print a credential in JSON"}
	}
	if printed.Username == tokenUser {
		return Login{IdentityToken: printed.Secret}, nil
	}
	return Login{Username: printed.Username, Password: printed.Secret}, nil
}

// boundedBuffer keeps the first max bytes written to it. It has no ReadFrom, because io.Copy would
// use it and exceed the bound.
type boundedBuffer struct {
	b    bytes.Buffer
	max  int
	over bool
}

// Write implements io.Writer and never fails.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	room := b.max - b.b.Len()
	if len(p) > room {
		b.over = true
	}
	b.b.Write(p[:min(len(p), room)])
	return len(p), nil
}

func (b *boundedBuffer) String() string { return b.b.String() }
