package verify

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// workload is the build that one client requests.
type workload struct {
	source *imagebuilderv1.Source
	name   string // of the source; equal names mean equal images
	expect history.Phase
	force  bool
	secret bool // the request carries the canary as a build secret
}

// workload returns the build of request number n.
func (r *run) workload(n int) workload {
	profile := r.opts.Profile
	if profile == ProfileMixed {
		switch k := n % 10; {
		case k < 6:
			profile = ProfileInstant
		case k < 9:
			profile = ProfileRef
		default:
			profile = ProfileDockerfile
		}
	}
	switch profile {
	case ProfileDockerfile:
		return r.dockerfile(n)
	case ProfileRef:
		return byRef(r.opts.Images)
	}
	return byRef(r.opts.Instant)
}

// byRef returns a build from one of the references, chosen at random.
func byRef(refs []string) workload {
	ref := refs[rand.IntN(len(refs))]
	return workload{
		source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}},
		name:   ref, expect: history.Succeeded, force: true,
	}
}

// dockerfile returns a Dockerfile build. Every third request shares the image of the request before
// it, and one build in ten is expected to fail.
func (r *run) dockerfile(n int) workload {
	number, path, expect := n-n%3/2, "Dockerfile", history.Succeeded
	if n/10%10 == 9 {
		path, expect = "Dockerfile.broken", history.Failed
	}
	d := &imagebuilderv1.DockerfileSource{
		Context:        &imagebuilderv1.DockerfileSource_Upload{Upload: &imagebuilderv1.UploadedContext{Digest: r.context}},
		DockerfilePath: path, BuildArgs: map[string]string{"NUMBER": fmt.Sprintf("%s-%d", r.id, number)},
	}
	if r.opts.Base != "" {
		d.SecretIds = []string{"canary"}
	}
	return workload{
		source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: d}},
		name:   fmt.Sprintf("%s/%s-%d", path, r.id, number), expect: expect, force: true, secret: r.opts.Base != "",
	}
}

// upload sends the build context, if the profile has Dockerfile builds.
func (r *run) upload(ctx context.Context) error {
	if r.opts.Profile != ProfileDockerfile && r.opts.Profile != ProfileMixed {
		return nil
	}
	from, steps := "scratch", ""
	if r.opts.Base != "" {
		from = r.opts.Base
		steps = "RUN --mount=type=secret,id=canary i=0; while [ $i -lt 200 ]; do echo line $i of $NUMBER; i=$((i+1)); done; cat /run/secrets/canary\n"
	}
	files := map[string]string{
		"file":              "of verify\n",
		"Dockerfile":        "FROM " + from + "\nARG NUMBER\nCOPY file /verify\n" + steps + "LABEL number=$NUMBER\n",
		"Dockerfile.broken": "FROM " + from + "\nARG NUMBER\nLABEL number=$NUMBER\nCOPY missing /verify\n",
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, name := range []string{"Dockerfile", "Dockerfile.broken", "file"} {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			return err
		}
		if _, err := strings.NewReader(files[name]).WriteTo(tw); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	sum := sha256.Sum256(b.Bytes())
	digest := "sha256:" + hex.EncodeToString(sum[:])
	s, err := r.all[0].UploadContext(ctx)
	if err != nil {
		return fmt.Errorf("upload the build context: %w", err)
	}
	// CloseAndRecv returns the error of a failed Send.
	_ = s.Send(&imagebuilderv1.UploadContextRequest{Digest: digest, Chunk: b.Bytes()})
	res, err := s.CloseAndRecv()
	if err != nil {
		return fmt.Errorf("upload the build context: %w", err)
	}
	r.context = res.Digest
	return nil
}
