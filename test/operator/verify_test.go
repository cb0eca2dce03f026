package operator

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/verify"
)

// verifyOptions returns options for a cluster whose images come from reg.
func verifyOptions(t testing.TB, c *harness.Cluster, reg *registrytest.Registry, d time.Duration) verify.Options {
	t.Helper()
	looker := verify.DockerLooker{}
	instant, err := looker.Prepare(t.Context(), reg.Addr+"/library/verify", 60, 1, 1024)
	if err != nil {
		t.Fatal(err)
	}
	o := verify.Options{
		Duration: d, Rate: 20, Readers: 2, Instant: instant, Images: instant, Cancel: 10, Looker: looker, Patience: time.Minute,
		Auth: &imagebuilderv1.RegistryAuth{AllowBaseRepository: true},
	}
	for _, n := range c.Nodes {
		o.Servers = append(o.Servers, n.GRPC)
	}
	return o
}

// reportOf returns the report of a run. If a promise was broken, it saves the history of the run in
// a file.
func reportOf(t testing.TB, e *verify.Evidence) *verify.Report {
	t.Helper()
	r := verify.NewReport(e)
	if !r.OK {
		path := filepath.Join(os.TempDir(), "evidence-"+strings.ReplaceAll(t.Name(), "/", "-")+".jsonl")
		if f, err := os.Create(path); err == nil {
			_ = e.Save(f)
			_ = f.Close()
			t.Logf("what was seen is in %s", path)
		}
	}
	return r
}

func textOf(t testing.TB, r *verify.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.Text(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Test_Verify_AHealthyClusterIsOK runs the checker on a healthy cluster, and checks the saved
// evidence again.
func Test_Verify_AHealthyClusterIsOK(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	c := harness.StartCluster(t, 3, reg.Addr, nil)
	e, err := verify.Run(t.Context(), verifyOptions(t, c, reg, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	r := reportOf(t, e)
	t.Log("\n" + textOf(t, r))
	if !r.OK || r.Counts.Acknowledged < 50 {
		t.Fatal("a healthy cluster does not pass")
	}
	var saved bytes.Buffer
	if err := e.Save(&saved); err != nil {
		t.Fatal(err)
	}
	again, err := verify.Load(bytes.NewReader(saved.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if r2 := verify.NewReport(again); !r2.OK || r2.Counts.LogBytes != r.Counts.LogBytes {
		t.Errorf("reportOf again it says %v, with %d instead of %d bytes of logs", r2.OK, r2.Counts.LogBytes, r.Counts.LogBytes)
	}
	var html bytes.Buffer
	if err := r.HTML(&html); err != nil || !strings.Contains(html.String(), "<svg") || strings.Contains(html.String(), "ZgotmplZ") {
		t.Errorf("the page is not whole (%v)", err)
	}
}
