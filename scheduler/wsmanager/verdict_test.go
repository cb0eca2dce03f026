package wsmanager

import (
	"strings"
	"testing"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Test_Bounded_RedactsFirst truncates texts of ws-manager within a secret. No part of the secret
// may remain.
func Test_Bounded_RedactsFirst(t *testing.T) {
	const secret = "a-secret-of-the-build"
	s := &session{w: &workload.Workload{Secrets: &buildsv1.Secrets{Build: map[string][]byte{"token": []byte(secret)}}}}
	for cut := range len(secret) {
		text := strings.Repeat(".", maxText-cut) + secret + strings.Repeat(".", maxText)
		got := s.bounded(&workload.Failure{Message: text}).Message
		rest := strings.Trim(strings.TrimSuffix(got, " ..."), ".")
		if !strings.HasPrefix("[redacted]", rest) || len(got) > maxText+len(" ...") {
			t.Errorf("a text that is cut at byte %d of a secret ends with %q", cut, got[len(got)-40:])
		}
	}
}
