package verify

import (
	"strings"
	"testing"
	"time"
)

// Test_Options_Check checks that invalid options are refused with the reason, and that valid
// options get their defaults.
func Test_Options_Check(t *testing.T) {
	images := []string{"r.example.com/library/verify:1"}
	for name, c := range map[string]struct {
		change func(*Options)
		want   string // part of the error, "" for none
	}{
		"instant by default":        {func(o *Options) { o.Profile, o.Images = "", nil }, ""},
		"instant":                   {func(o *Options) { o.Images = nil }, ""},
		"instant without images":    {func(o *Options) { o.Instant = nil }, "profile instant needs instant images"},
		"ref":                       {func(o *Options) { o.Profile, o.Instant = ProfileRef, nil }, ""},
		"ref without images":        {func(o *Options) { o.Profile, o.Images = ProfileRef, nil }, "profile ref needs ref images"},
		"dockerfile":                {func(o *Options) { o.Profile, o.Instant, o.Images = ProfileDockerfile, nil, nil }, ""},
		"mixed":                     {func(o *Options) { o.Profile = ProfileMixed }, ""},
		"mixed without tiny images": {func(o *Options) { o.Profile, o.Instant = ProfileMixed, nil }, "profile mixed needs instant images"},
		"mixed without images":      {func(o *Options) { o.Profile, o.Images = ProfileMixed, nil }, "profile mixed needs ref images"},
		"another profile":           {func(o *Options) { o.Profile = "all" }, `profile "all" is unknown; use ref, dockerfile, instant or mixed`},
		"no node":                   {func(o *Options) { o.Servers = nil }, "no node to verify"},
		"no time":                   {func(o *Options) { o.Duration = 0 }, "the duration is 0s"},
		"no rate":                   {func(o *Options) { o.Rate = -1 }, "the rate is -1"},
		"too many cancellations":    {func(o *Options) { o.Cancel = 101 }, "cancelled builds is 101"},
		"negative readers":          {func(o *Options) { o.Readers = -1 }, "the number of readers is -1"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Servers: []string{"one:1"}, Duration: time.Second, Rate: 1, Profile: ProfileInstant, Instant: images, Images: images}
			c.change(&o)
			err := o.check()
			if c.want == "" {
				if err != nil || o.InFlight == 0 || o.Patience == 0 || o.Profile == "" || o.Faults == nil || o.Progress == nil || o.Looker == nil {
					t.Errorf("%v, %+v", err, o)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}
