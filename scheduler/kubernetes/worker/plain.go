package worker

import (
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// plainSink replaces the proxy's image names in output by the original names. BuildKit's lines
// arrive whole, so that no name is cut.
type plainSink struct {
	workload.Sink
	names proxy.Names
}

// Write writes p with the original names. It returns the length of p.
func (s plainSink) Write(p []byte) (int, error) {
	if _, err := s.Sink.Write([]byte(s.names.Plain(string(p)))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Steps replaces the steps.
func (s plainSink) Steps(steps []*imagebuilderv1.Step) {
	out := make([]*imagebuilderv1.Step, len(steps))
	for i, st := range steps {
		out[i] = proto.CloneOf(st)
		out[i].Name, out[i].Error = s.names.Plain(st.Name), s.names.Plain(st.Error)
	}
	s.Sink.Steps(out)
}

// plainResult replaces the proxy's image names in a result by the original names.
func plainResult(r podapi.Result, names proxy.Names) podapi.Result {
	r.Message = names.Plain(r.Message)
	return r
}
