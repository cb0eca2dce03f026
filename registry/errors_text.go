package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"regexp"
	"strings"
	"syscall"
)

const maxSafeText = 200 // in bytes, of a foreign error's text

var (
	queryString = regexp.MustCompile(`\?[^\s"]*`)
	userInfo    = regexp.MustCompile(`//[^/\s"@]*@`)
	hostName    = regexp.MustCompile(`^[A-Za-z0-9._:\[\]-]{1,100}$`)
)

// ownTexts lists prefixes of errors of Go's HTTP client. Their text is Go's own up to the first
// quote; the rest comes from the server.
var ownTexts = []string{"http: ", "net/http: ", "http2: ", "tls: ", "remote error: tls: "}

// safeText returns a text for a foreign error that contains nothing that a server sent. A server's
// text may contain our own credentials and signed URLs. Known secrets are masked in addition.
func safeText(err error, secrets []string) string {
	for {
		var u *url.Error
		if !errors.As(err, &u) {
			break
		}
		err = u.Err
	}
	text, _, _ := strings.Cut(knownText(err), "\n")
	text = userInfo.ReplaceAllString(queryString.ReplaceAllString(text, "?..."), "//")
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "***")
		}
	}
	return strings.ToValidUTF8(text[:min(len(text), maxSafeText)], "")
}

func knownText(err error) string {
	var (
		dns      *net.DNSError
		op       *net.OpError
		errno    syscall.Errno
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
		record   tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &dns):
		if !hostName.MatchString(dns.Name) {
			return "its host name cannot be resolved"
		}
		return "lookup " + dns.Name + ": " + dns.Err
	case errors.As(err, &verify), errors.As(err, &unknown), errors.As(err, &hostname), errors.As(err, &invalid):
		return err.Error()
	case errors.As(err, &record):
		return "it does not speak TLS: " + record.Msg
	case errors.As(err, &op):
		return op.Error()
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "it closed the connection before the end of its response"
	}
	text := err.Error()
	for _, own := range ownTexts {
		if strings.HasPrefix(text, own) {
			text, _, _ = strings.Cut(text, `"`)
			text, _, _ = strings.Cut(text, "malformed")
			return strings.TrimRight(text, " :")
		}
	}
	return "its response is invalid"
}
