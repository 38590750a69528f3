package seal_test

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A list ends the gateways that it lacks, but for those that are younger, and those for which it had no room.
func TestListDrops(t *testing.T) {
	made := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	l := &seal.GatewayList{LogTimeMS: made.UnixMilli(), Gateways: []seal.ListedGateway{{Name: "gw-a", Keys: []ident.KeyID{{1}, {2}}}}}
	full := &seal.GatewayList{LogTimeMS: made.UnixMilli(), Gateways: make([]seal.ListedGateway, seal.MaxListed)}
	for name, tc := range map[string]struct {
		list   *seal.GatewayList
		name   string
		key    byte
		issued time.Time
		want   bool
	}{
		"listed":                  {l, "gw-a", 2, made.Add(-time.Hour), false},
		"another key":             {l, "gw-a", 3, made.Add(-time.Hour), true},
		"another name":            {l, "gw-b", 1, made.Add(-time.Hour), true},
		"issued when it was made": {l, "gw-b", 3, made, true},
		"issued later":            {l, "gw-b", 3, made.Add(time.Second), false},
		"no room":                 {full, "gw-b", 3, made.Add(-time.Hour), false},
	} {
		if got := tc.list.Drops(tc.name, ident.KeyID{tc.key}, tc.issued); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
