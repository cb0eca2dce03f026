package ecr_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry/ecr"
)

func TestMatches_WholeNamesOnly(t *testing.T) {
	for host, want := range map[string]bool{
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com":          true,
		"123456789012.dkr.ecr.us-gov-west-1.amazonaws.com":      true,
		"123456789012.dkr.ecr-fips.us-gov-east-1.amazonaws.com": true,
		"123456789012.dkr.ecr-fips.us-east-1.amazonaws.com":     true,
		"123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn":      true,
		"123456789012.dkr-ecr.us-west-2.on.aws":                 true,
		"123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu":      true,
		"public.ecr.aws":     true,
		"ecr-public.aws.com": true,

		"123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example": false,
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com:8443":         false,
		"evil.example/123456789012.dkr.ecr.eu-west-1.amazonaws.com": false,
		"x123456789012.dkr.ecr.eu-west-1.amazonaws.com":             false,
		"a.123456789012.dkr.ecr.eu-west-1.amazonaws.com":            false,
		"12345678901.dkr.ecr.eu-west-1.amazonaws.com":               false,
		"1234567890123.dkr.ecr.eu-west-1.amazonaws.com":             false,
		"123456789012.dkr.ecr.evil.example.amazonaws.com":           false,
		"123456789012.dkr.ecr.eu-west-1.amazonawsxcom":              false,
		"123456789012.dkr.ecr.eu-west-1.evilamazonaws.com":          false,
		"123456789012.dkr.ecr.cn-north-1.amazonaws.com":             false,
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com.cn":           false,
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com\n":            false,
		"123456789012.dkr.ecr.eu-west-1@evil-1.amazonaws.com":       false,
		"public.ecr.aws.evil.example":                               false,
		"xpublic.ecr.aws":                                           false,
		"":                                                          false,
	} {
		if got := ecr.New().Matches(host); got != want {
			t.Errorf("%q: %v, want %v", host, got, want)
		}
	}
}

// cloud starts a fake of STS and ECR and points the AWS SDK to it. It issues token, or fails if
// token is empty, and counts the calls of ECR.
func cloud(t *testing.T, token string) (ecrCalls *int) {
	t.Helper()
	ecrCalls = new(int)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		switch {
		case r.Form.Get("Action") == "AssumeRoleWithWebIdentity":
			if r.Form.Get("WebIdentityToken") != "pod-token" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKIDROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		case strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".GetAuthorizationToken"):
			*ecrCalls++
			if token == "" || !strings.Contains(r.Header.Get("Authorization"), "Credential=AKIDROLE/") {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			data := fmt.Sprintf(`{"authorizationToken":%q,"expiresAt":%d}`, token, time.Now().Add(12*time.Hour).Unix())
			if !strings.Contains(r.Header.Get("X-Amz-Target"), "SpencerFrontend") {
				data = "[" + data + "]"
			}
			fmt.Fprintf(w, `{"authorizationData":%s}`, data)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("pod-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": s.URL, "AWS_ENDPOINT_URL_STS": s.URL, "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/r", "AWS_WEB_IDENTITY_TOKEN_FILE": file,
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "",
	} {
		t.Setenv(k, v)
	}
	return ecrCalls
}

func TestLogin_ByThePodsWebIdentity(t *testing.T) {
	calls := cloud(t, base64.StdEncoding.EncodeToString([]byte("AWS:pass:word")))
	for _, host := range []string{"123456789012.dkr.ecr.eu-west-1.amazonaws.com", "public.ecr.aws"} {
		*calls = 0
		l, err := ecr.New().Login(t.Context(), host)
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		if l.Username != "AWS" || l.Password != "pass:word" || time.Until(l.Expires) < 11*time.Hour || *calls != 1 {
			t.Errorf("%s: %q, %d calls, ends in %s", host, l.Username, *calls, time.Until(l.Expires))
		}
	}
}

func TestLogin_OfThePublicRegistryMayFail(t *testing.T) {
	cloud(t, "")
	if _, err := ecr.New().Login(t.Context(), "123456789012.dkr.ecr.eu-west-1.amazonaws.com"); err == nil {
		t.Error("no error of the private registry")
	}
	if l, err := ecr.New().Login(t.Context(), "public.ecr.aws"); err != nil || l.Username != "" || l.Expires.IsZero() {
		t.Errorf("%v, %v", l, err)
	}
}

func TestLogin_RefusesTokensOfAnotherForm(t *testing.T) {
	for _, token := range []string{"%%%", base64.StdEncoding.EncodeToString([]byte("AWS")), base64.StdEncoding.EncodeToString([]byte("AWS:"))} {
		cloud(t, token)
		if _, err := ecr.New().Login(t.Context(), "123456789012.dkr.ecr.eu-west-1.amazonaws.com"); err == nil || strings.Contains(err.Error(), token) {
			t.Errorf("%q: %v", token, err)
		}
	}
}
