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

// A helper is a program docker-credential-NAME that is found by PATH. It reads
// the registry from its input and prints a credential in JSON
// (docker-credential-helpers' protocol, command get).

// helperName is what may follow docker-credential-: the config file names a
// program in PATH, never a path.
var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

const maxHelperBytes = 64 << 10 // of what a helper prints

// helperNotFound is what helpers print where they have nothing
// (docker-credential-helpers, credentials.errCredentialsNotFoundMessage).
const helperNotFound = "credentials not found"

// tokenUser is the user that marks an identity token in a helper's answer, as
// docker's own client takes it.
const tokenUser = "<token>"

// runHelper asks a helper about a server. A helper that has no credential for
// it is no error: it answers the empty Login.
func runHelper(ctx context.Context, name, server string) (Login, error) {
	if !helperName.MatchString(name) {
		return Login{}, &kindError{kind: Unavailable, text: "its name is not that of a docker-credential program"}
	}
	cmd := exec.CommandContext(ctx, "docker-credential-"+name, "get")
	cmd.Stdin = strings.NewReader(server)
	out, errs := &boundedBuffer{max: maxHelperBytes}, &boundedBuffer{max: maxHelperBytes}
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.WaitDelay = time.Second // children that keep the pipes open are not waited for
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
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal([]byte(out.String()), &answer); err != nil {
		return Login{}, &kindError{kind: Unavailable, text: "it did not print a credential in JSON"}
	}
	if answer.Username == tokenUser {
		return Login{IdentityToken: answer.Secret}, nil
	}
	return Login{Username: answer.Username, Password: answer.Secret}, nil
}

// boundedBuffer keeps the first bytes written to it. It has no ReadFrom, by
// which io.Copy would go past the bound.
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
