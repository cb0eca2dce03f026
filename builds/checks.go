package builds

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxRef is the maximum length of an image reference, in bytes.
const MaxRef = 1024

// checkText refuses what has no place in a one-line value. Values are never
// quoted in errors: people put secrets everywhere.
func CheckText(field, s string, limit int) error {
	switch {
	case len(s) > limit:
		return invalidf("%s is %d bytes long, at most %d are allowed", field, len(s), limit)
	case !utf8.ValidString(s):
		return invalidf("%s is not valid UTF-8", field)
	case strings.ContainsFunc(s, unicode.IsControl):
		return invalidf("%s contains a control character (a newline or NUL, for instance)", field)
	}
	return nil
}

func CheckRef(field, s string) error {
	if s == "" {
		return invalidf("%s is empty: name an image", field)
	}
	return CheckText(field, s, MaxRef)
}
