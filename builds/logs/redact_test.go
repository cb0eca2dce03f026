package logs_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// redactAll redacts a text that is cut into pieces at random places.
func redactAll(r *logs.Redactor, text []byte, seed uint64) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	var out []byte
	total := 0
	for len(text) > 0 {
		n := 1 + rnd.IntN(len(text))
		if seed%3 == 0 {
			n = 1
		}
		o, c := r.Write(text[:n])
		out, total = append(out, o...), total+c
		text = text[n:]
	}
	o, _ := r.Flush()
	return append(out, o...)
}

func Test_Redact_Encodings(t *testing.T) {
	const secret = `hunter2 p@ss/w+rd"\x`
	j, _ := json.Marshal(secret)
	for name, form := range map[string]string{
		"plain": secret, "query": url.QueryEscape(secret), "path": url.PathEscape(secret),
		"lower": strings.ToLower(url.QueryEscape("P@ss")) + "-", "json": string(j),
		"base64":    base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64+1":  base64.StdEncoding.EncodeToString([]byte("u" + secret)),
		"base64+2":  base64.StdEncoding.EncodeToString([]byte("u:" + secret + "z")),
		"base64url": base64.URLEncoding.EncodeToString([]byte("user:" + secret + ">>")),
	} {
		if name == "lower" {
			continue
		}
		got := string(redactAll(logs.NewRedactor([][]byte{[]byte(secret)}, nil), []byte("before "+form+" after"), 0))
		if !strings.Contains(got, "[redacted]") || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
			t.Errorf("%s: %q became %q", name, form, got)
		}
		if strings.Contains(got, form) || strings.Contains(got, "p@ss") {
			t.Errorf("%s: the secret shows: %q", name, got)
		}
	}
}

// wrap breaks a text into lines like base64(1), with a line end and a mark.
func wrap(text string, columns int, lineEnd, mark string) string {
	var b strings.Builder
	for len(text) > columns {
		b.WriteString(text[:columns] + lineEnd + mark)
		text = text[columns:]
	}
	return b.String() + text
}

func Test_Redact_WrappedBase64(t *testing.T) {
	long := make([]byte, 200)
	for i := range long {
		long[i] = byte('a' + i*7%26)
	}
	for _, secret := range []string{"hunter2", "a token of twenty-eight byte", string(long), "line one of it\nand line two"} {
		for shift := range 80 { // so that the line break is once at each position
			for _, f := range []struct {
				columns       int
				lineEnd, mark string
			}{{76, "\n", ""}, {76, "\r\n", ""}, {64, "\n", ""}, {76, "\n", "#12 3.456 "}, {76, "\n", "  "}, {76, "\r\n", "#7 123.4 "}} {
				before := strings.Repeat("x", shift)
				text := wrap(base64.StdEncoding.EncodeToString([]byte(before+secret+" after")), f.columns, f.lineEnd, f.mark)
				got := string(redactAll(logs.NewRedactor([][]byte{[]byte(secret)}, nil), []byte("out: "+text+"\n"), uint64(shift)))
				plain := strings.NewReplacer(f.lineEnd+f.mark, "", f.lineEnd, "").Replace(got)
				if !strings.Contains(got, "[redacted]") || strings.Contains(plain, core(before, secret)) {
					t.Fatalf("%q after %d bytes, %+v: %q became %q", secret, shift, f, text, got)
				}
				if !strings.HasPrefix(got, "out: "+text[:min(shift, 60)/3*4]) || !strings.HasSuffix(got, "\n") {
					t.Fatalf("%q after %d bytes, %+v: more than the secret of %q was removed: %q", secret, shift, f, text, got)
				}
			}
		}
	}
}

// core returns the part of the base64 of before+secret that depends on secret only.
func core(before, secret string) string {
	all := base64.RawStdEncoding.EncodeToString([]byte(before + secret))
	return all[(len(before)*8+5)/6 : len(before+secret)*8/6]
}

func Test_Redact_RefsGoWithTheirRepositories(t *testing.T) {
	r := logs.NewRedactor(nil, logs.RefsToCensor("localhost:5000/workspace-images:abc", "docker.io/library/ubuntu@sha256:"+strings.Repeat("0", 64)))
	got := string(redactAll(r, []byte("push localhost:5000/workspace-images:abc from docker.io/library/ubuntu done\n"), 3))
	if got != "push [ref] from [ref] done\n" {
		t.Errorf("got %q", got)
	}
}

func Test_Redact_OverlapsAreCoveredToTheirEnds(t *testing.T) {
	r := logs.NewRedactor([][]byte{[]byte("abcdefgh"), []byte("ghijklmn")}, []string{"xxabcd"})
	if got := string(redactAll(r, []byte("-xxabcdefghijklmn-"), 0)); got != "-[redacted]-" {
		t.Errorf("got %q", got)
	}
}

func Test_Redact_ShortValuesStay(t *testing.T) {
	if got := string(redactAll(logs.NewRedactor([][]byte{[]byte("abcde"), {}}, []string{"ab"}), []byte("abcde"), 0)); got != "abcde" {
		t.Errorf("got %q", got)
	}
}

func Fuzz_Redact(f *testing.F) {
	f.Add([]byte("secret1"), []byte("abcdef/ref"), []byte("xx secret1 secresecret1t1 abcdef/ref yy"), uint64(7))
	f.Add([]byte("secret-over-the-end-of-a-line"), []byte("#1 2.3 "), []byte(wrap(base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", 40)+"secret-over-the-end-of-a-line")), 76, "\n", "#1 2.3 ")), uint64(5))
	f.Add([]byte("00000\r"), []byte("ref"), []byte("0"), uint64(1))
	f.Add([]byte("aaaaaa"), []byte("aaaa"), []byte("aaaaaaaaaaaaaaaaaaaaaaa"), uint64(3))
	f.Fuzz(func(t *testing.T, secret, censor, text []byte, seed uint64) {
		if len(secret) < 6 || bytes.ContainsAny(secret, "[]") {
			return
		}
		text = append(append(text, secret...), text...)
		make := func() *logs.Redactor { return logs.NewRedactor([][]byte{secret}, []string{string(censor)}) }
		whole, n := make().Write(text)
		if n > len(text) {
			t.Fatalf("consumed %d of %d", n, len(text))
		}
		_ = whole
		a, b := redactAll(make(), text, seed), redactAll(make(), text, 0)
		if !bytes.Equal(a, b) {
			t.Fatalf("the result depends on the chunks:\n%q\n%q", a, b)
		}
		for _, form := range [][]byte{secret, []byte(base64.StdEncoding.EncodeToString(secret)), []byte(url.QueryEscape(string(secret)))} {
			if bytes.Contains(a, form) {
				t.Fatalf("%q shows in %q", form, a)
			}
		}
		before := strings.Repeat("-", int(seed%80))
		lines := wrap(base64.StdEncoding.EncodeToString([]byte(before+string(secret))), 76, "\n", "")
		shown := strings.ReplaceAll(string(redactAll(make(), []byte(lines), seed)), "\n", "")
		if strings.Contains(shown, core(before, string(secret))) {
			t.Fatalf("%q shows in %q of %q", secret, shown, lines)
		}
		// A redactor that starts at any end of a record gives the same output.
		r := make()
		head, seam := r.Write(text[:len(text)/2])
		rest := redactAll(make(), text[seam:], seed)
		if !bytes.Equal(append(head, rest...), b) {
			t.Fatalf("taken over at %d: %q, want %q", seam, append(head, rest...), b)
		}
	})
}

func Benchmark_Redact(b *testing.B) {
	r := logs.NewRedactor([][]byte{[]byte("a-secret-of-some-length"), []byte("another/secret+value")}, []string{"registry.example.com/workspace-images"})
	line := []byte("#12 4.123 Setting up libfoo-dev:amd64 (1.2.3-4+deb12u1) from registry mirror a b c ...\n")
	chunk := bytes.Repeat(line, 32<<10/len(line))
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		r.Write(chunk)
	}
}

// Test_Redact_PeriodicSecretIsNotHeldBack redacts a secret that consists of one character from
// output of the same character.
func Test_Redact_PeriodicSecretIsNotHeldBack(t *testing.T) {
	r := logs.NewRedactor([][]byte{[]byte("aaaaaa")}, nil)
	written, final := 0, 0
	for range 4 {
		_, n := r.Write(bytes.Repeat([]byte("a"), 16<<10))
		written, final = written+16<<10, final+n
	}
	if held := written - final; held > 1<<10 {
		t.Errorf("%d of %d bytes are held back", held, written)
	}
}

// Test_Redact_TrivialLinesStay redacts the lines of a structured secret, except those that are in
// ordinary output, too.
func Test_Redact_TrivialLinesStay(t *testing.T) {
	const secret = "{\n  \"auths\": {\n        \"quay\": \"hunter2-hunter2\"\n        },\n      }\n==========\n-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----\n}\n"
	r := logs.NewRedactor([][]byte{[]byte(secret)}, nil)
	for in, want := range map[string]string{
		"}":                                "}",
		"        },\n":                     "        },\n",
		"      }\n}\n":                     "      }\n}\n",
		"============":                     "============",
		"-----BEGIN PRIVATE KEY-----\n":    "-----BEGIN PRIVATE KEY-----\n",
		"is \"quay\": \"hunter2-hunter2\"": "is [redacted]",
		"MIIEvQIBADANBg\n":                 "[redacted]\n",
		secret:                             "[redacted]",
	} {
		if got := r.String(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

// Test_Redact_HeldBackAllocatesNothing receives a large secret in pieces. While all of it is held
// back, a piece allocates no room for output of the bytes before it.
func Test_Redact_HeldBackAllocatesNothing(t *testing.T) {
	const piece = 4 << 10
	secret := []byte(strings.Repeat("0123456789abcdef", 32<<10) + "end")
	r := logs.NewRedactor([][]byte{secret}, nil)
	for rest := secret; len(rest) > piece; rest = rest[piece:] {
		if out, _ := r.Write(rest[:piece]); len(out) > 0 || cap(out) > piece {
			t.Fatalf("%d bytes are returned, in room for %d bytes", len(out), cap(out))
		}
	}
}
