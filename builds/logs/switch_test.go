package logs

import (
	"encoding/base64"
	"strings"
	"testing"
)

// Test_StepSwitch redacts output of BuildKit's printer of plain progress, as the terminal of a
// Gitpod workspace sends it. The printer cuts a line in a secret when another step begins to print.
func Test_StepSwitch(t *testing.T) {
	const secret = "hunter2-s3cr3t-t0k3n!" // without padding in base64
	wrapped := base64.StdEncoding.EncodeToString([]byte(secret))
	for name, text := range map[string]string{"plain": secret, "base64": wrapped} {
		for cut := range text {
			for _, end := range []string{"\n", "\r\n"} {
				in := strings.ReplaceAll("#7 [one] RUN x\n#7 0.1 token: "+text[:cut]+"\n#7 ...\n\n#8 [two] RUN y\n#8 0.2 a line\n#8 DONE 0.1s\n\n#7 [one] RUN x\n#7 0.1 token: "+text+"\n", "\n", end)
				first := text[:cut]
				if cut >= minSecret {
					first = redacted
				}
				want := strings.ReplaceAll("#7 [one] RUN x\n#7 0.1 token: "+first+"\n#7 ...\n\n#8 [two] RUN y\n#8 0.2 a line\n#8 DONE 0.1s\n\n#7 [one] RUN x\n#7 0.1 token: "+redacted+"\n", "\n", end)
				for _, size := range []int{1, 7, len(in)} {
					r := NewRedactor([][]byte{[]byte(secret)}, nil)
					var got strings.Builder
					for rest := in; rest != ""; rest = rest[min(size, len(rest)):] {
						out, _ := r.Write([]byte(rest[:min(size, len(rest))]))
						got.Write(out)
					}
					out, _ := r.Flush()
					got.Write(out)
					if got.String() != want {
						t.Fatalf("%s, cut after %d bytes, in pieces of %d:\n got %q\nwant %q", name, cut, size, got.String(), want)
					}
				}
			}
		}
	}
}

// Test_StepSwitch_OrdinaryLinesStay keeps the beginning of a secret at the end of a line after which
// the step does not change.
func Test_StepSwitch_OrdinaryLinesStay(t *testing.T) {
	for _, text := range []string{"hunter2-\n#8 0.2 more", "hunter2-\n\n#8 ...", "hunter2-\n#8 ..", "hunter2-\n# ...\n", "hunter2-\r#8 ...", "hunte\n#8 ...\n", "hunter2-\n#1234567890 ...\n"} {
		r := NewRedactor([][]byte{[]byte("hunter2-s3cr3t-t0k3n")}, nil)
		if got := r.String(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// Test_Cut redacts a stream of which a part has to be shown within a secret.
func Test_Cut(t *testing.T) {
	const secret = "hunter2-s3cr3t-t0k3n"
	for cut := range secret {
		for second := cut; second < len(secret); second++ {
			r := NewRedactor([][]byte{[]byte(secret)}, nil)
			out, _ := r.Write([]byte("token: " + secret[:cut]))
			got := string(out) + string(r.Cut())
			out, _ = r.Write([]byte(secret[cut:second]))
			got += string(out) + string(r.Cut()) + string(r.Cut())
			out, _ = r.Write([]byte(secret[second:] + " after " + secret + "\n"))
			last, _ := r.Flush()
			got += string(out) + string(last)
			for i := 0; i+minSecret <= len(secret); i++ {
				if strings.Contains(got, secret[i:i+minSecret]) {
					t.Fatalf("cut after %d and %d bytes: %q", cut, second, got)
				}
			}
			if !strings.HasPrefix(got, "token: ") || !strings.HasSuffix(got, " after [redacted]\n") {
				t.Fatalf("cut after %d and %d bytes: %q", cut, second, got)
			}
		}
	}
}

// Test_StepSwitch_AnotherSecretInside redacts a line that the printer cuts in a secret that contains
// another secret.
func Test_StepSwitch_AnotherSecretInside(t *testing.T) {
	for name, c := range map[string]struct{ outer, inner string }{
		"inside":     {"postgres://user:hunter2-token@db.example.com/main", "hunter2-token"},
		"same start": {"hunter2-s3cr3t-t0k3n-of-the-db", "hunter2-"},
	} {
		const shown = 6 // bytes of the outer secret after the inner one, before the cut
		cut := c.outer[:strings.Index(c.outer, c.inner)+len(c.inner)+shown]
		in := "#7 0.1 URL=" + cut + "\n#7 ...\n\n#8 0.2 a line\n"
		r := NewRedactor([][]byte{[]byte(c.outer), []byte(c.inner)}, nil)
		want := "#7 0.1 URL=[redacted]\n#7 ...\n\n#8 0.2 a line\n"
		if got := r.String(in); got != want {
			t.Errorf("%s:\n got %q\nwant %q", name, got, want)
		}
	}
}

// Test_Cut_InASwitch calls Cut before the rest of a line such as `#12 ...` arrives.
func Test_Cut_InASwitch(t *testing.T) {
	for _, before := range []string{"x hunter2-\n", "x hunter2-\r\n#1", "x hunter2-\n#12 .."} {
		all := before + strings.TrimPrefix("\n#12 ...\n", before[strings.LastIndexByte(before, '\n'):])
		r := NewRedactor([][]byte{[]byte("hunter2-s3cr3t-t0k3n")}, nil)
		out, _ := r.Write([]byte(before))
		got := string(out) + string(r.Cut())
		out, _ = r.Write([]byte(all[len(before):]))
		got += string(out)
		out, _ = r.Flush()
		if got += string(out); !strings.HasPrefix(got, "x [redacted]") || strings.Contains(got, "hunter2") {
			t.Errorf("after %q: %q", before, got)
		}
	}
}
