package logs

// stepSwitch finds the place where BuildKit's printer of plain progress cuts a line. When another
// step begins to print, the printer ends an open line of the current step, and writes the line `#12
// ...`. It later prints the whole line of the former step again. So the beginning of a secret
// before such a line would remain visible. It is redacted if it has minSecret bytes or more.
//
// Runtimes that receive each step on its own redact before they merge the output. The output of
// BuildKit in a Gitpod workspace is merged by the printer.
type stepSwitch struct {
	phase  switchPhase
	cr     bool // the byte before is '\r', and the beginning of a secret before it is too short
	part   span // the beginning of a secret at the end of a line
	length int  // digits of the number of the step, or points
}

type switchPhase uint8

const (
	noSwitch switchPhase = iota
	switchReturn
	switchMark
	switchNumber
	switchPoints
)

// maxStepDigits is the greatest number of digits of the number of a step.
const maxStepDigits = 9

// endsLine reports whether the byte c ends a line, in the phase noSwitch.
func (s *stepSwitch) endsLine(c byte) bool {
	cr := s.cr
	s.cr = c == '\r'
	return c == '\r' || c == '\n' && !cr
}

// begin records that the line end c follows the beginning of a secret.
func (s *stepSwitch) begin(part span, c byte) {
	*s = stepSwitch{part: part, phase: switchMark}
	if c == '\r' {
		s.phase = switchReturn
	}
}

// scan takes the byte c after a line end. It reports whether another step has begun to print, so
// that the part is an occurrence. The phase is noSwitch then, and after a byte of any other line.
func (s *stepSwitch) scan(c byte) (found bool) {
	switch {
	case s.phase == switchReturn && c == '\n':
		s.phase = switchMark
	case s.phase == switchMark && c == '#':
		s.phase, s.length = switchNumber, 0
	case s.phase == switchNumber && c >= '0' && c <= '9' && s.length < maxStepDigits:
		s.length++
	case s.phase == switchNumber && c == ' ' && s.length > 0:
		s.phase, s.length = switchPoints, 0
	case s.phase == switchPoints && c == '.' && s.length < 2:
		s.length++
	case s.phase == switchPoints && c == '.':
		s.phase = noSwitch
		return true
	default:
		s.phase = noSwitch
	}
	return false
}
