// Package ecr makes credentials for Amazon's registries from the identity of this process:
// environment, web identity (IRSA), pod identity, or the role of the instance, as the AWS SDK finds
// them. It is separate from package registry because the SDK is large.
package ecr

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecrpublic"

	"github.com/image-builder-ha/image-builder/registry"
)

// private matches the hosts of private registries, as Amazon's credential helper does
// (ecr-login/api/client.go). The groups are account, FIPS, region, and the domain of the partition.
// The whole name must match.
var private = regexp.MustCompile(`^(\d{12})\.dkr[.-]ecr(-fips)?\.([a-z]{2,4}(?:-[a-z]+){1,3}-\d{1,2})\.(amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu|on\.aws|on\.amazonwebservices\.com\.cn|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)$`)

const (
	publicHost      = "public.ecr.aws"
	publicDualStack = "ecr-public.aws.com"
	// publicRegion is the only region whose API issues tokens for the public registry (API
	// reference of ECR public).
	publicRegion = "us-east-1"
	// publicPause is how long the public registry is used anonymously after a failure to get a
	// token for it.
	publicPause = 10 * time.Minute
)

// Private reports whether a host is a private registry of Amazon. The whole name must match.
func Private(host string) bool {
	p, ok := parse(host)
	return ok && !p.public
}

// Provider makes credentials for ECR. The zero Provider is usable.
type Provider struct{}

var _ registry.Provider = Provider{}

// New returns a provider.
func New() Provider { return Provider{} }

// Name implements registry.Provider.
func (Provider) Name() string { return "ecr" }

// place is the location of a registry.
type place struct {
	region       string
	fips, public bool
}

func parse(host string) (place, bool) {
	if host == publicHost || host == publicDualStack {
		return place{region: publicRegion, public: true}, true
	}
	m := private.FindStringSubmatch(host)
	if m == nil {
		return place{}, false
	}
	china := strings.HasSuffix(m[4], ".cn")
	if strings.HasPrefix(m[3], "cn-") != china {
		return place{}, false // no such registry: each partition has a domain of its own
	}
	return place{region: m[3], fips: m[2] != ""}, true
}

// Matches implements registry.Provider.
func (Provider) Matches(host string) bool {
	_, ok := parse(host)
	return ok
}

// Login implements registry.Provider. It requests an authorization token, which lives for 12 hours,
// from ECR in the registry's region. The public registry needs no login: if it issues no token, it
// is used anonymously.
func (Provider) Login(ctx context.Context, host string) (registry.Login, error) {
	p, ok := parse(host)
	if !ok {
		return registry.Login{}, fmt.Errorf("%q is not a registry of ECR", host)
	}
	opts := []func(*config.LoadOptions) error{config.WithRegion(p.region), config.WithRetryMaxAttempts(2)}
	if p.fips {
		opts = append(opts, config.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled))
	}
	cfg, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return registry.Login{}, fmt.Errorf("find the AWS identity: %w", err)
	}
	if p.public {
		out, err := ecrpublic.NewFromConfig(cfg).GetAuthorizationToken(ctx, &ecrpublic.GetAuthorizationTokenInput{})
		if err != nil || out.AuthorizationData == nil {
			return registry.Login{Expires: time.Now().Add(publicPause)}, nil //nolint:nilerr // the public registry needs no login
		}
		return login(out.AuthorizationData.AuthorizationToken, out.AuthorizationData.ExpiresAt)
	}
	out, err := ecr.NewFromConfig(cfg).GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{})
	if err != nil {
		return registry.Login{}, fmt.Errorf("get a token from ECR: %w", err)
	}
	if len(out.AuthorizationData) == 0 {
		return registry.Login{}, errors.New("ECR returned no token")
	}
	return login(out.AuthorizationData[0].AuthorizationToken, out.AuthorizationData[0].ExpiresAt)
}

func login(token *string, expires *time.Time) (registry.Login, error) {
	raw, err := base64.StdEncoding.DecodeString(aws.ToString(token))
	user, password, ok := strings.Cut(string(raw), ":")
	if err != nil || !ok || password == "" {
		return registry.Login{}, errors.New("ECR returned a token in an unknown form")
	}
	return registry.Login{Username: user, Password: password, Expires: aws.ToTime(expires)}, nil
}
