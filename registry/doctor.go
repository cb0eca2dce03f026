package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Verdict is the outcome of a Check.
type Verdict string

// Verdicts.
const (
	OK      Verdict = "ok"
	Warning Verdict = "warning"
	Failed  Verdict = "failed"
)

// Check is one thing that must hold for a registry to be usable.
type Check struct {
	Name    string
	Verdict Verdict
	Detail  string // what was found, without secrets
	Advice  string // what to do; empty if nothing
}

// certificateSoon is when the end of a certificate becomes a warning.
const certificateSoon = 14 * 24 * time.Hour

// Doctor looks whether a registry host can be used with these rights, one
// layer after the other, and its mirrors: configuration, name, connection,
// TLS, the API, login, and limits. It ends at the first layer that fails,
// blocks for at most the client's Timeout for each host, and changes nothing
// at the registry.
func (c *Client) Doctor(ctx context.Context, host string, r Rights) []Check {
	out := c.examineHost(ctx, host, r)
	for _, m := range c.hosts.mirrors[c.canonical(host)] {
		for _, check := range c.examineHost(ctx, m.host, r) {
			check.Name = "mirror " + m.host + ": " + check.Name
			if check.Verdict == Failed {
				check.Verdict = Warning // the host itself is asked then
			}
			out = append(out, check)
		}
	}
	return out
}

func (c *Client) examineHost(ctx context.Context, host string, r Rights) []Check {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	d := &doctor{c: c, r: r, host: host, plain: c.plain.has(host)}
	for _, step := range []func(context.Context) bool{d.name, d.rest, d.connect, d.api, d.login} {
		if !step(ctx) {
			break
		}
	}
	return d.checks
}

type doctor struct {
	c         *Client
	r         Rights
	host      string
	plain     bool
	reg       name.Registry
	cred      credential
	challenge *transport.Challenge
	checks    []Check
}

func (d *doctor) add(name string, v Verdict, advice, detail string, args ...any) bool {
	d.checks = append(d.checks, Check{Name: name, Verdict: v, Detail: fmt.Sprintf(detail, args...), Advice: advice})
	return v != Failed
}

func (d *doctor) name(context.Context) bool {
	var err error
	if mayHoldCredentials(d.host) || strings.Contains(d.host, "/") {
		return d.add("name", Failed, "give the host alone, as in registry.example.com:5000", "this is no host")
	}
	if d.reg, err = name.NewRegistry(d.host); err != nil {
		return d.add("name", Failed, "give the host alone, as in registry.example.com:5000", "this is no host")
	}
	how := "TLS"
	if d.plain {
		how = "plain HTTP, by configuration"
	}
	return d.add("name", OK, "", "%s by %s", d.c.canonical(d.host), how)
}

func (d *doctor) rest(context.Context) bool {
	if left := d.c.wire.gates.of(d.c.canonical(d.host)).resting(); left > 0 {
		d.add("breaker", Warning, "", "it did not answer the last %d requests, and is not asked for %s", breakerAfter, left.Round(time.Millisecond))
	}
	return true
}

// connect looks at name, address and certificate. Behind a proxy there is
// nothing to look at.
func (d *doctor) connect(ctx context.Context) bool {
	port := "443"
	if d.plain {
		port = "80"
	}
	addr := d.reg.RegistryStr()
	if _, _, err := net.SplitHostPort(addr); err != nil {
		addr = net.JoinHostPort(strings.Trim(addr, "[]"), port)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+"/v2/", nil)
	if err != nil {
		return d.add("connection", Failed, "", "this is no host")
	}
	if d.c.opts.Proxy != nil {
		if u, err := d.c.opts.Proxy(req); err == nil && u != nil {
			return d.add("connection", OK, "", "through the proxy %s", u.Host)
		}
	}
	conn, err := d.c.opts.Dial(ctx, "tcp", addr)
	if err != nil {
		return d.add("connection", Failed, adviceFor(err), "%v", examine(err).err)
	}
	defer func() { _ = conn.Close() }()
	d.add("connection", OK, "", "to %s", conn.RemoteAddr())
	if d.plain {
		return true
	}
	tr := d.c.wire.of(d.c.canonical(d.host))
	config := tr.TLSClientConfig.Clone()
	config.ServerName, _, _ = net.SplitHostPort(addr)
	tc := tls.Client(conn, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return d.add("certificate", Failed, "give the CA that signed it for this host (caFile), or have the registry send its whole chain", "%v", examine(err).err)
	}
	leaf := tc.ConnectionState().PeerCertificates[0]
	switch left := time.Until(leaf.NotAfter); {
	case config.InsecureSkipVerify:
		d.add("certificate", Warning, "give its CA instead (caFile)", "not verified, by configuration")
	case left < certificateSoon:
		d.add("certificate", Warning, "renew it", "ends at %s", leaf.NotAfter.Format(time.DateOnly))
	default:
		d.add("certificate", OK, "", "of %.80q by %.80q, ends at %s", leaf.Subject.CommonName, leaf.Issuer.CommonName, leaf.NotAfter.Format(time.DateOnly))
	}
	return true
}

func adviceFor(err error) string {
	var addr *AddressError
	var dns *net.DNSError
	switch {
	case errors.As(err, &addr):
		return "allow the host in the configuration (allowHosts) if it is meant"
	case errors.As(err, &dns):
		return "check the name, and the DNS of this node"
	}
	return "check that it is up, and the network policies and firewalls between"
}

// api pings the registry.
func (d *doctor) api(ctx context.Context) (ok bool) {
	start := time.Now()
	var err error
	d.challenge, err = transport.Ping(ctx, d.reg, transport.NewUserAgent(d.c.wire, "image-builder"))
	if err != nil {
		return d.add("API", Failed, "check that a registry, and not another service, answers at /v2/", "%v", examine(err).err)
	}
	took := time.Since(start).Round(time.Millisecond)
	switch scheme := strings.ToLower(d.challenge.Scheme); scheme {
	case "":
		return d.add("API", OK, "", "answered in %s; login: none", took)
	case "basic", "bearer":
		return d.add("API", OK, "", "answered in %s; login: %s", took, scheme)
	}
	return d.add("API", Warning, "let the registry offer basic or bearer authentication", "answered in %s; login: of an unknown kind", took)
}

// login finds the credential and tries it.
func (d *doctor) login(ctx context.Context) bool {
	var err error
	if d.cred, err = d.c.credentialFor(ctx, d.host, "", d.r); err != nil {
		return d.add("credential", Failed, "check the helper or identity that it names", "%v", err)
	}
	if d.cred.anonymous() {
		advice := ""
		if d.challenge.Scheme != "" {
			advice = "add an entry for the host to the docker config file unless only public images are meant"
		}
		d.add("credential", OK, advice, "none")
	} else {
		d.add("credential", OK, "", "%s", d.cred.name())
	}
	tr, renew, err := d.c.authenticated(ctx, d.reg, d.cred, nil)
	if err != nil {
		return d.add("login", Failed, "check the credential: the registry does not take it", "%v", examine(err, d.cred.secrets()...).err)
	}
	if !renew.IsZero() {
		return d.add("login", OK, "", "a token for %s", time.Until(renew).Round(time.Second))
	}
	return d.basic(ctx, tr)
}

// basic asks the API's root with the credential itself.
func (d *doctor) basic(ctx context.Context, tr http.RoundTripper) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+d.reg.RegistryStr()+"/v2/", nil)
	if err != nil {
		return d.add("login", Failed, "", "this is no host")
	}
	resp, err := (&http.Client{Transport: tr, CheckRedirect: checkRedirect}).Do(req)
	if err == nil {
		discard(resp)
		if resp.StatusCode == http.StatusOK {
			return d.add("login", OK, "", "accepted")
		}
		err = &statusError{code: resp.StatusCode}
	}
	if d.cred.anonymous() && examine(err).status == http.StatusUnauthorized {
		return d.add("login", Warning, "", "the registry wants one")
	}
	return d.add("login", Failed, "check the credential: the registry does not take it", "%v", examine(err, d.cred.secrets()...).err)
}
