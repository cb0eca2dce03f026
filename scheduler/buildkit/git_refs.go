package buildkit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// maxAdvertised bounds the list of references that a git server sends, in bytes. It is enough for
// some hundred thousand references.
const maxAdvertised = 64 << 20

var commitID = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// ResolveCommit returns the commit that a git context names now. It asks the git server with the
// credential of the request. The dialer of c decides which addresses it may connect to. The error
// is a *workload.Failure if the request is at fault.
func ResolveCommit(ctx context.Context, c *http.Client, g *imagebuilderv1.GitContext, s *buildsv1.Secrets) (string, error) {
	ref, err := gitRef(g)
	if err == nil {
		err = checkRemote(g.GetRemoteUri())
	}
	if err != nil {
		return "", userFailure(err)
	}
	if commitID.MatchString(ref) {
		return ref, nil
	}
	header, _ := contextHeader(s, g.GetRemoteUri())
	body, err := requestRefs(ctx, c, g.GetRemoteUri(), header)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }() // the rest is not needed
	names := refNames(ref)
	found, err := readRefs(io.LimitReader(body, maxAdvertised), names)
	if err != nil {
		return "", fmt.Errorf("read the references of the git repository %s: %w", g.GetRemoteUri(), err)
	}
	for _, name := range names {
		if id := found[name]; id != "" {
			return id, nil
		}
	}
	if ref == "" {
		return "", userFailure(fmt.Errorf("the git repository %s is empty", g.GetRemoteUri()))
	}
	return "", userFailure(fmt.Errorf("the git repository %s has no branch or tag %q", g.GetRemoteUri(), ref))
}

// refNames returns the references that a short name may mean, in the order of BuildKit and git: a
// branch before a tag, and the target of a tag before the tag itself.
func refNames(ref string) []string {
	if ref == "" {
		return []string{"HEAD"}
	}
	head := "refs/heads/" + strings.TrimPrefix(ref, "refs/heads/")
	tag := "refs/tags/" + strings.TrimPrefix(ref, "refs/tags/")
	names := []string{head, tag + "^{}", tag}
	if exact := "refs/" + strings.TrimPrefix(ref, "refs/"); exact != head && exact != tag {
		names = append([]string{exact}, names...)
	}
	return names
}

// readRefs returns the object ids of the references in names. r is the list of references that a
// git server advertises (gitprotocol-http, gitprotocol-pack).
func readRefs(r io.Reader, names []string) (map[string]string, error) {
	found := map[string]string{}
	for _, n := range names {
		found[n] = ""
	}
	b := bufio.NewReader(r)
	flushes := 0
	for line := 0; ; line++ {
		text, end, err := packet(b)
		switch {
		case err != nil:
			return nil, err
		case line == 0 && text != "# service=git-upload-pack":
			return nil, errors.New("the server does not serve git over HTTP")
		case line == 0:
			continue
		case end:
			if flushes++; flushes == 2 || line > 1 {
				return found, nil
			}
			continue
		}
		text, _, _ = strings.Cut(text, "\x00") // the capabilities of the server follow
		id, name, ok := strings.Cut(text, " ")
		if !ok || !commitID.MatchString(id) {
			if strings.HasPrefix(text, "ERR ") {
				return nil, errors.New("the server returned an error")
			}
			continue
		}
		if _, wanted := found[name]; wanted {
			found[name] = id
		}
	}
}

// packet reads one pkt-line of git's protocol; end reports a flush packet.
func packet(b *bufio.Reader) (text string, end bool, err error) {
	var head [4]byte
	if _, err := io.ReadFull(b, head[:]); err != nil {
		return "", false, fmt.Errorf("the response ends early: %w", err)
	}
	n, err := strconv.ParseUint(string(head[:]), 16, 16)
	switch {
	case err != nil || n > 0 && n < 4:
		return "", false, errors.New("the response is not git's protocol")
	case n == 0:
		return "", true, nil
	}
	data := make([]byte, n-4)
	if _, err := io.ReadFull(b, data); err != nil {
		return "", false, fmt.Errorf("the response ends early: %w", err)
	}
	return strings.TrimSuffix(string(data), "\n"), false, nil
}

// gitReadable asks the server, as git would, whether a repository can be read with an Authorization
// header. The check is needed because a daemon that has the commit cached does not ask the server.
// The error is a *workload.Failure if the server refuses.
func gitReadable(ctx context.Context, c *http.Client, remote, header string) error {
	if err := checkRemote(remote); err != nil {
		return userFailure(err)
	}
	body, err := requestRefs(ctx, c, remote, header)
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, body, 64<<10) // content not needed; reading it lets the connection be reused
	_ = body.Close()
	return nil
}

// requestRefs requests the references of a repository from its server. The caller closes the body.
func requestRefs(ctx context.Context, c *http.Client, remote, header string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(remote, "/")+"/info/refs?service=git-upload-pack", nil)
	if err != nil {
		return nil, userFailure(fmt.Errorf("request the git repository: %w", err))
	}
	if header != "" {
		req.Header.Set("Authorization", header)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("request the git repository: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	_ = resp.Body.Close() // content not needed
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, userFailure(fmt.Errorf("no right to read the git repository %s (%d): check the credential of the request", remote, resp.StatusCode))
	case http.StatusNotFound:
		return nil, userFailure(fmt.Errorf("the git repository %s does not exist, or the credential of the request may not see it", remote))
	}
	return nil, fmt.Errorf("request the git repository %s: the server returned status %d", remote, resp.StatusCode)
}
