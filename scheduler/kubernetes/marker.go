package kubernetes

// lostLine is the line in the log where output is missing.
const lostLine = "\n[the last output of this build was lost with its pod]"

// marker is a sink that accepts lines that are not output of the workload.
type marker interface {
	Marker(line string) error
}

// markLost writes lostLine. It is no output of the worker: Offset stays a position in that output,
// for a later owner that finds the pod again.
func (s startedSink) markLost() {
	if m, ok := s.Sink.(marker); ok {
		_ = m.Marker(lostLine) // the log reports the error when it is sealed
		return
	}
	_, _ = s.Write([]byte(lostLine + "\n"))
}
