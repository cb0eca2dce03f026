package logs

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"

	"github.com/distribution/reference"
)

// minSecret is the least length of a secret in bytes: shorter ones would redact ordinary text.
const minSecret = 6

// minCensored is the least length of a censored ref in bytes.
const minCensored = 4

// variants returns the forms in which a secret may occur in output. out has the plain text, its
// lines that are not trivial, and their URL and JSON encodings. wrapped has the base64 in three
// alignments and two alphabets; programs break base64 into lines.
func variants(secret []byte) (out, wrapped [][]byte) {
	forms := [][]byte{secret, bytes.TrimSpace(secret)}
	for line := range bytes.SplitSeq(secret, []byte("\n")) {
		if line = bytes.TrimSpace(line); !trivial(line) {
			forms = append(forms, line)
		}
	}
	for _, s := range forms {
		if len(s) < minSecret {
			continue
		}
		out = append(out, s)
		for shift := range 3 {
			wrapped = append(wrapped, base64Core(base64.RawStdEncoding, s, shift), base64Core(base64.RawURLEncoding, s, shift))
		}
		out = append(out, urlForms(string(s))...)
		if raw, err := json.Marshal(string(s)); err == nil {
			out = append(out, raw[1:len(raw)-1])
		}
		out = append(out, []byte(strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(string(s))))
	}
	return out, wrapped
}

// trivial reports whether a line of a secret without the space around it says nothing about the
// secret: a line of brackets and separators, a line that repeats one character, or the first or last
// line of a PEM block. Such lines are in ordinary output, too.
func trivial(line []byte) bool {
	rest := bytes.Trim(line, "{}[]()<>,:;\"' \t")
	if len(rest) == 0 || bytes.Count(rest, rest[:1]) == len(rest) {
		return true
	}
	boundary := bytes.HasPrefix(line, []byte("-----BEGIN ")) || bytes.HasPrefix(line, []byte("-----END "))
	return boundary && bytes.HasSuffix(line, []byte("-----"))
}

// base64Core encodes a text that contains s at an offset o with o mod 3 == shift, and returns the
// characters that depend on s only.
func base64Core(enc *base64.Encoding, s []byte, shift int) []byte {
	padded := append(make([]byte, shift), s...)
	text := enc.EncodeToString(padded)
	first := [3]int{0, 2, 3}[shift]
	return []byte(text[first : len(padded)*8/6])
}

func urlForms(s string) [][]byte {
	lower := make([]byte, 0, 3*len(s))
	for i := range len(s) {
		lower = hex.AppendEncode(append(lower, '%'), []byte{s[i]})
	}
	forms := [][]byte{bytes.ToUpper(lower), lower}
	for _, f := range []string{url.QueryEscape(s), url.PathEscape(s), url.User(s).String(), strings.ReplaceAll(url.QueryEscape(s), "+", "%20")} {
		forms = append(forms, []byte(f), []byte(lowerEscapes(f)))
	}
	return forms
}

// lowerEscapes makes the hexadecimal digits of percent escapes lower case.
func lowerEscapes(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			b[i+1], b[i+2] = lowerDigit(b[i+1]), lowerDigit(b[i+2])
			i += 2
		}
	}
	return string(b)
}

func lowerDigit(c byte) byte {
	if c >= 'A' && c <= 'F' {
		c += 'a' - 'A'
	}
	return c
}

// RefsToCensor returns the strings to remove for each image ref: the ref, and its repository
// without tag and digest.
func RefsToCensor(refs ...string) []string {
	var out []string
	for _, r := range refs {
		if r == "" {
			continue
		}
		out = append(out, r)
		if named, err := reference.ParseNormalizedNamed(r); err == nil {
			out = append(out, named.Name(), reference.FamiliarName(named))
		}
	}
	return out
}
