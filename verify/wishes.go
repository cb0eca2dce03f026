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

// wish answers what the n-th request asks for.
func (r *run) wish(n int) wish {
	profile := r.o.Profile
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
		return byRef(r.o.Images)
	}
	return byRef(r.o.Instant)
}

func byRef(refs []string) wish {
	ref := refs[rand.IntN(len(refs))]
	return wish{
		source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}},
		name:   ref, expect: history.Succeeded, force: true,
	}
}

// dockerfile is a build of its own, one in three shared with the request
// before, one in ten made to fail.
func (r *run) dockerfile(n int) wish {
	number, path, expect := n-n%3/2, "Dockerfile", history.Succeeded
	if n/10%10 == 9 {
		path, expect = "Dockerfile.broken", history.Failed
	}
	d := &imagebuilderv1.DockerfileSource{
		Context:        &imagebuilderv1.DockerfileSource_Upload{Upload: &imagebuilderv1.UploadedContext{Digest: r.context}},
		DockerfilePath: path, BuildArgs: map[string]string{"NUMBER": fmt.Sprintf("%s-%d", r.id, number)},
	}
	if r.o.Base != "" {
		d.SecretIds = []string{"canary"}
	}
	return wish{
		source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: d}},
		name:   fmt.Sprintf("%s/%s-%d", path, r.id, number), expect: expect, force: true, secret: r.o.Base != "",
	}
}

// upload sends the build context of the Dockerfiles, if there will be any.
func (r *run) upload(ctx context.Context) error {
	if r.o.Profile != ProfileDockerfile && r.o.Profile != ProfileMixed {
		return nil
	}
	from, steps := "scratch", ""
	if r.o.Base != "" {
		from = r.o.Base
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
	// An error of Send is told by CloseAndRecv.
	_ = s.Send(&imagebuilderv1.UploadContextRequest{Digest: digest, Chunk: b.Bytes()})
	res, err := s.CloseAndRecv()
	if err != nil {
		return fmt.Errorf("upload the build context: %w", err)
	}
	r.context = res.Digest
	return nil
}
