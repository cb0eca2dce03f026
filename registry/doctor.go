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

// Check is the result of one step of Doctor.
type Check struct {
	Name    string
	Verdict Verdict
	Detail  string // the finding, without secrets
	Advice  string // what to do; empty for nothing
}

// certificateSoon is the remaining lifetime of a certificate below which Doctor warns.
const certificateSoon = 14 * 24 * time.Hour

// Doctor checks whether a registry host and its mirrors can be used with these rights. It checks
// layer by layer: name, circuit breaker, connection, TLS, API, and login. It stops at the first
// layer that fails. It blocks for at most the client's Timeout for each host, and changes nothing
// at the registry.
func (c *Client) Doctor(ctx context.Context, host string, r Rights) []Check {
	out := c.examineHost(ctx, host, r)
	for _, m := range c.hosts.mirrors[c.canonical(host)] {
		for _, check := range c.examineHost(ctx, m.host, r) {
			check.Name = "mirror " + m.host + ": " + check.Name
			if check.Verdict == Failed {
				check.Verdict = Warning // requests fall back to the host itself
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
	for _, step := range []func(context.Context) bool{d.name, d.breaker, d.connect, d.api, d.login} {
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
		return d.add("name", Failed, "give the host alone, as in registry.example.com:5000", "this is not a host")
	}
	if d.reg, err = name.NewRegistry(d.host); err != nil {
		return d.add("name", Failed, "give the host alone, as in registry.example.com:5000", "this is not a host")
	}
	how := "TLS"
	if d.plain {
		how = "plain HTTP, by configuration"
	}
	return d.add("name", OK, "", "%s by %s", d.c.canonical(d.host), how)
}

func (d *doctor) breaker(context.Context) bool {
	if left := d.c.wire.breakers.of(d.c.canonical(d.host)).openFor(); left > 0 {
		d.add("breaker", Warning, "", "open: the last %d requests got no response; the next one is sent in %s", breakerThreshold, left.Round(time.Millisecond))
	}
	return true
}

// connect checks name, address and certificate. Behind a proxy it checks nothing.
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
		return d.add("connection", Failed, "", "this is not a host")
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
		return d.add("certificate", Failed, "configure the CA that signed it for this host (caFile), or let the registry send its whole chain", "%v", examine(err).err)
	}
	leaf := tc.ConnectionState().PeerCertificates[0]
	switch left := time.Until(leaf.NotAfter); {
	case config.InsecureSkipVerify:
		d.add("certificate", Warning, "configure its CA instead (caFile)", "not verified, by configuration")
	case left < certificateSoon:
		d.add("certificate", Warning, "renew it", "expires on %s", leaf.NotAfter.Format(time.DateOnly))
	default:
		d.add("certificate", OK, "", "subject %.80q, issuer %.80q, expires on %s", leaf.Subject.CommonName, leaf.Issuer.CommonName, leaf.NotAfter.Format(time.DateOnly))
	}
	return true
}

func adviceFor(err error) string {
	var addr *AddressError
	var dns *net.DNSError
	switch {
	case errors.As(err, &addr):
		return "if this is intended, allow the host in the configuration (allowHosts)"
	case errors.As(err, &dns):
		return "check the name, and the DNS of this node"
	}
	return "check that it is running, and the network policies and firewalls on the way"
}

// api pings the registry.
func (d *doctor) api(ctx context.Context) (ok bool) {
	start := time.Now()
	var err error
	d.challenge, err = transport.Ping(ctx, d.reg, transport.NewUserAgent(d.c.wire, "image-builder"))
	if err != nil {
		return d.add("API", Failed, "check that a registry, and not another service, is at this address (path /v2/)", "%v", examine(err).err)
	}
	took := time.Since(start).Round(time.Millisecond)
	switch scheme := strings.ToLower(d.challenge.Scheme); scheme {
	case "":
		return d.add("API", OK, "", "responded in %s; login: none", took)
	case "basic", "bearer":
		return d.add("API", OK, "", "responded in %s; login: %s", took, scheme)
	}
	return d.add("API", Warning, "let the registry offer basic or bearer authentication", "responded in %s; login: unknown kind", took)
}

// login finds the credential and tries it.
func (d *doctor) login(ctx context.Context) bool {
	var err error
	if d.cred, err = d.c.credentialFor(ctx, d.host, "", d.r); err != nil {
		return d.add("credential", Failed, "check the helper or identity that the error names", "%v", err)
	}
	if d.cred.anonymous() {
		advice := ""
		if d.challenge.Scheme != "" {
			advice = "add an entry for the host to the docker config file, unless only public images are needed"
		}
		d.add("credential", OK, advice, "none")
	} else {
		d.add("credential", OK, "", "%s", d.cred.sourceName())
	}
	tr, renew, err := d.c.authenticated(ctx, d.reg, d.cred, nil)
	if err != nil {
		return d.add("login", Failed, "check the credential: the registry does not accept it", "%v", examine(err, d.cred.secrets()...).err)
	}
	if !renew.IsZero() {
		return d.add("login", OK, "", "a token that is valid for at least %s", time.Until(renew).Round(time.Second))
	}
	return d.checkBasic(ctx, tr)
}

// checkBasic requests the root of the API with the credential itself.
func (d *doctor) checkBasic(ctx context.Context, tr http.RoundTripper) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+d.reg.RegistryStr()+"/v2/", nil)
	if err != nil {
		return d.add("login", Failed, "", "this is not a host")
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
		return d.add("login", Warning, "", "the registry requires one")
	}
	return d.add("login", Failed, "check the credential: the registry does not accept it", "%v", examine(err, d.cred.secrets()...).err)
}
