package loginfo_test

import (
	"testing"

	"github.com/image-builder-ha/image-builder/api/loginfo"
)

func Test_Info(t *testing.T) {
	got := loginfo.Info("https://ib.example.com/", build, "")
	if got.Url != "https://ib.example.com/builds/"+build || len(got.Headers) > 0 {
		t.Errorf("%v", got)
	}
	if got := loginfo.Info("https://ib.example.com", build, "t"); got.Headers["x-gitpod-owner-token"] != "t" {
		t.Errorf("%v", got)
	}
}
