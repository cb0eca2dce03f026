package kubernetes_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Run_Dockerfile_Redacts prints a secret on both streams of parallel steps: 24,000 times, and
// 1,000,000 times with SOAK. The worker redacts the output before it merges it: the owner receives no
// secret, and neither does the message of the failed step.
func Test_Run_Dockerfile_Redacts(t *testing.T) {
	const steps, streams = 4, 2
	prints := 24_000
	if testkit.Soak() {
		prints = 1_000_000
	}
	token := "hunter2/s3cr3t+t0k3n="
	forms := []string{token, base64.StdEncoding.EncodeToString([]byte(token))}
	each := prints / (steps * streams * len(forms))
	var dockerfile, last strings.Builder
	for i := range steps { // each with another command, because BuildKit merges equal steps
		fmt.Fprintf(&dockerfile, "FROM BASE AS s%d\n", i)
		dockerfile.WriteString("RUN --mount=type=secret,id=password --mount=type=secret,id=form set -e; a=$(cat /run/secrets/password); b=$(cat /run/secrets/form); " +
			fmt.Sprintf("p() { i=0; while [ $i -lt %d ]; do echo \"-$a\"; echo \"-$b\"; i=$((i+1)); done; }; ", each) +
			fmt.Sprintf("p & p >&2; wait; echo %d > /done\n", i))
		fmt.Fprintf(&last, "COPY --from=s%d /done /done%d\n", i, i)
	}
	dockerfile.WriteString("FROM BASE\n" + last.String() + "RUN --mount=type=secret,id=password cat /run/secrets/password; false\n")
	s := newSite(t)
	w := s.build(t, "r1", dockerfile.String())
	w.Source.GetDockerfile().SecretIds = append(w.Source.GetDockerfile().SecretIds, "form")
	w.Secrets.Build = map[string][]byte{"password": []byte(token), "form": []byte(forms[1])}
	log := newSink()
	_, err := s.runtime(t, "node-a").Run(testContext(t), w, log)
	mustFail(t, err, builds.BlameUser, "exit code")
	text := log.text()
	for what, all := range map[string]string{"output": text, "message": err.Error(), "steps": fmt.Sprint(log.steps)} {
		for _, f := range forms {
			for i := 0; i+8 <= len(f); i++ {
				if at := strings.Index(all, f[i:i+8]); at >= 0 {
					t.Fatalf("the %s shows %q: %q", what, f[i:i+8], all[max(0, at-200):min(len(all), at+200)])
				}
			}
		}
	}
	// The end of a step may be reported before the last of its output, so that a print has two parts.
	want := each*steps*streams*len(forms) + 1
	if n := strings.Count(text, "[redacted]"); n < want || n > want+steps*streams {
		t.Errorf("%d parts of the output are redacted, want %d", n, want)
	}
}
