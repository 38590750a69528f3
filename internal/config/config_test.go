package config

import (
	"strings"
	"testing"
)

func TestDecodeYAML(t *testing.T) {
	type settings struct {
		Name string `yaml:"name"`
		N    int    `yaml:"n"`
	}
	for in, want := range map[string]settings{"": {}, "name: a\nn: 3\n": {"a", 3}, "# nothing\n": {}} {
		var got settings
		if err := DecodeYAML([]byte(in), &got); err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for in, says := range map[string]string{
		"title: a\n": "title", "n: three\n": "three", "name: a\n---\nname: b\n": "document", "name: [": "", "name: a\nname: b\n": "name",
	} {
		if err := DecodeYAML([]byte(in), new(settings)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestCheckAddr(t *testing.T) {
	for _, good := range []string{"gw:4433", "10.0.0.1:1", "[::1]:65535", "a.b.example:0"} {
		if err := CheckAddr(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "gw", ":4433", "gw:", "gw:65536", "gw:-1", "gw:x", "gw:domain", "::1:443", "a:b:c", strings.Repeat("x", 1000)} {
		err := CheckAddr(bad)
		if err == nil {
			t.Errorf("%q passed", bad)
		} else if len(err.Error()) > 300 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	}
}
