package sim

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRottenStateLooksLikeNoClone flips a bit in one copy of a device's counters, and then in the other one, each once the newer and
// once the older: the device goes on as itself, and all that it states arrives.
func TestRottenStateLooksLikeNoClone(t *testing.T) {
	t.Parallel()
	inPlant(t, 1, 5*time.Second, func(p *plant) {
		for i := range 8 {
			p.agents[0].Kill()
			path := filepath.Join(p.devices[0].Dir(), []string{"state.a", "state.b"}[i/2%2])
			b, err := os.ReadFile(path)
			p.must(err)
			b[len(b)/2+i] ^= 1 << i
			p.must(os.WriteFile(path, b, 0o600))
			p.agents[0] = p.startAgent(p.devices[0])
			p.sleep(time.Minute)
			if d := p.want(0, "online", ""); d.State != "active" {
				t.Fatalf("bit %d of %s: the device is %s: %s", i, filepath.Base(path), d.State, d.StateReason)
			}
			if h := p.history(0); len(h) != i+2 {
				t.Fatalf("bit %d of %s: %d registrations, want %d", i, filepath.Base(path), len(h), i+2)
			}
		}
		if said := p.events("statement.conflict"); said != "" {
			t.Errorf("conflicts: %s", said)
		}
	})
}
