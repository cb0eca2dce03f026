package api_test

import (
	"encoding/base64"
	"errors"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_Vectors_ThroughBothAPIs(t *testing.T) {
	a := newAPI(t)
	ctx := t.Context()
	for i, d := range loadVectors(t).Dockerfiles {
		native, gitpod := gitSource(d.RemoteURI, d.CloneTarget, d.DockerfilePath, d.DockerfileVersion, d.ContextPath)
		n, nerr := a.native.ResolveWorkspaceImage(ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: native})
		g, gerr := a.gitpod.ResolveWorkspaceImage(ctx, &builder.ResolveWorkspaceImageRequest{Source: gitpod})
		if i >= 2 { // no URI; `..` in the context path
			wantCode(t, nerr, codes.InvalidArgument, "")
			wantCode(t, gerr, codes.InvalidArgument, "")
			continue
		}
		if nerr != nil || gerr != nil {
			t.Fatal(nerr, gerr)
		}
		if n.Ref != d.WorkspaceRef || n.BaseRef != d.BaseRef || g.Ref != d.WorkspaceRef || g.BaseRef != d.BaseRef {
			t.Errorf("vector %d: got %s %s and %s %s", i+1, n.Ref, n.BaseRef, g.Ref, g.BaseRef)
		}
	}
	digested := loadVectors(t).WorkspaceRefs[0]
	a.registry.images[digested.BaseRef] = digested.BaseRef[strings.IndexByte(digested.BaseRef, '@')+1:]
	g, err := a.gitpod.ResolveWorkspaceImage(ctx, &builder.ResolveWorkspaceImageRequest{Source: gitpodRef(digested.BaseRef)})
	if err != nil || g.Ref != digested.WorkspaceRef {
		t.Errorf("digest vector: got %v, %v", g, err)
	}
	n, err := a.native.ResolveWorkspaceImage(ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: refSource(digested.BaseRef)})
	if err != nil || n.Ref != digested.WorkspaceRef {
		t.Errorf("digest vector, native: got %v, %v", n, err)
	}
	resolved := loadVectors(t).WorkspaceRefs[1]
	a.registry.images[resolved.BaseRef] = "sha256:abc"
	native, gitpod := gitSource("https://example.com/a.git", "main", "Dockerfile", "1", ".")
	b, err := a.native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{Source: native, BaseImageNameResolved: resolved.BaseRef})
	if err != nil || b.Build.Ref != resolved.WorkspaceRef || b.Build.BaseRef != resolved.BaseRef {
		t.Errorf("base_image_name_resolved, native: got %v, %v", b, err)
	}
	stream, err := a.gitpod.Build(ctx, &builder.BuildRequest{Source: gitpod, BaseImageNameResolved: resolved.BaseRef})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := stream.Recv(); err != nil || res.Ref != resolved.WorkspaceRef || res.Info.BuildId != b.Build.Id {
		t.Errorf("base_image_name_resolved: got %v, %v", res, err)
	}
}

// Test_BaseImageResolved_ThatIsGone checks that the source is built if the base image of an earlier
// build no longer resolves. If its registry cannot be reached, the request fails instead.
func Test_BaseImageResolved_ThatIsGone(t *testing.T) {
	const base = "old.example.com/base-images:1"
	for name, c := range map[string]struct {
		err  error
		gone bool
	}{
		"not there":       {&builds.ImageError{Kind: builds.ImageNotFound, Err: errors.New("no")}, true},
		"no right":        {&builds.ImageError{Kind: builds.ImageUnauthorized, Err: errors.New("no")}, true},
		"refused":         {&builds.ImageError{Kind: builds.ImageInvalid, Err: errors.New("no")}, true},
		"no such host":    {&builds.ImageError{Kind: builds.ImageUnavailable, Err: &net.DNSError{IsNotFound: true}}, true},
		"no answer":       {&builds.ImageError{Kind: builds.ImageUnavailable, Err: errors.New("no")}, false},
		"no name service": {&builds.ImageError{Kind: builds.ImageUnavailable, Err: &net.DNSError{IsTimeout: true}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPIWith(t, func(o *api.ServiceOptions) { o.Dockerfiles = true })
			a.registry.fail[base] = c.err
			native, gitpod := gitSource("https://example.com/a.git", "main", "Dockerfile", "1", ".")
			stream, err := a.gitpod.Build(t.Context(), &builder.BuildRequest{Source: gitpod, BaseImageNameResolved: base})
			if err != nil {
				t.Fatal(err)
			}
			res, gerr := stream.Recv()
			b, nerr := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: native, BaseImageNameResolved: base})
			if !c.gone {
				wantCode(t, gerr, codes.Unavailable, "")
				wantCode(t, nerr, codes.Unavailable, "")
				return
			}
			if gerr != nil || nerr != nil {
				t.Fatal(gerr, nerr)
			}
			if b.Build.BaseRef == base || b.Build.Source.GetDockerfile() == nil || res.BaseRef != b.Build.BaseRef {
				t.Errorf("got %v and %v, want a build of the source", b, res)
			}
		})
	}
}

func Test_DockerfileWithoutRuntime(t *testing.T) {
	a := newAPI(t)
	native, _ := gitSource("https://example.com/a.git", "main", "Dockerfile", "1", ".")
	_, err := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: native})
	wantCode(t, err, codes.FailedPrecondition, "no runtime for Dockerfile builds")
	base := api.DockerfileKey{RemoteURI: "https://example.com/a.git", CloneTarget: "main", DockerfilePath: "Dockerfile", DockerfileVersion: "1", ContextPath: "."}.BaseRef(baseRepo)
	a.registry.images[base] = "sha256:b"
	res, err := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: native})
	if err != nil || res.Build.GetSource().GetRef() == nil || res.Build.GetBaseRef() != base {
		t.Errorf("an existing base image makes it a copy: got %v, %v", res, err)
	}
}

// Test_Rights_IgnoreMalformedCredentials: a credential that is not base64 of user:password fails no
// request, as with the original, and the others are used.
func Test_Rights_IgnoreMalformedCredentials(t *testing.T) {
	encode := base64.StdEncoding.EncodeToString
	for name, malformed := range map[string]string{
		"a raw token": "hunter2-secret",
		"no colon":    encode([]byte("hunter2-secret")),
		"empty":       "",
		"no padding":  strings.TrimRight(encode([]byte("user:pa")), "="),
	} {
		a := newAPI(t)
		_, err := a.gitpod.ResolveBaseImage(t.Context(), &builder.ResolveBaseImageRequest{Ref: ubuntu, Auth: &builder.BuildRegistryAuth{
			Additional: map[string]string{
				"bad.example.com": malformed, "bad.example.com:part": malformed,
				"good.example.com": encode([]byte("user:password")),
			},
		}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r := a.registry.rights[0].Additional; len(r) != 1 || r["good.example.com"].GetPassword() != "password" {
			t.Errorf("%s: the credentials are %v", name, r)
		}
	}
}

func Test_Rights_SelectTheHosts(t *testing.T) {
	a := newAPI(t)
	_, err := a.gitpod.ResolveBaseImage(t.Context(), &builder.ResolveBaseImageRequest{Ref: ubuntu, Auth: &builder.BuildRegistryAuth{
		Mode:       &builder.BuildRegistryAuth_Selective{Selective: &builder.BuildRegistryAuthSelective{AllowBaserep: true, AnyOf: []string{"Other.example.com"}}},
		Additional: map[string]string{"h": base64.StdEncoding.EncodeToString([]byte("user:pass:word"))},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := a.registry.rights[0]
	if r.AllowAll || strings.Join(r.Hosts, ",") != "other.example.com,registry.example.com" || r.Additional["h"].GetPassword() != "pass:word" {
		t.Errorf("got %v", r)
	}
}
