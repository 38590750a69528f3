package sim

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// fromEnv reads a number from the environment.
func fromEnv(t *testing.T, name string) (n uint64, given bool) {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n, true
}

// TestLinearizable runs storms of faults over three core nodes while clients use the API of all of them, and holds what the
// clients were answered against models, the audit trail against the answers, and the nodes against each other.
//
// HOLDFAST_SEEDS=n runs n seeds, HOLDFAST_SEED=n that one alone. A seed repeats the faults and the workload, not how goroutines
// take turns: run one that failed several times.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	base := scratch(t)
	f := newFleet(t, filepath.Join(base, "fleet"))
	first, count := uint64(1), uint64(defaultSeeds)
	if n, ok := fromEnv(t, "HOLDFAST_SEEDS"); ok {
		count = n
	}
	if n, ok := fromEnv(t, "HOLDFAST_SEED"); ok {
		first, count = n, 1
	}
	var mu sync.Mutex
	var ops, unknown int
	fired := make(map[fault]uint64) // seeds
	t.Run("storms", func(t *testing.T) {
		for seed := first; seed < first+count; seed++ {
			t.Run(fmt.Sprintf("seed-%d", seed), func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(base, fmt.Sprintf("seed-%d", seed))
				defer func() {
					if t.Failed() {
						t.Logf("run it again: HOLDFAST_SEED=%d go test -run '^TestLinearizable$' -count=20 ./sim", seed)
					}
					if err := os.RemoveAll(dir); err != nil {
						t.Error(err)
					}
				}()
				v := weather(t, f, dir, seed)
				mu.Lock()
				defer mu.Unlock()
				ops, unknown = ops+v.ops, unknown+v.unknown
				for k := range v.fired {
					fired[k]++
				}
			})
		}
	})
	var how []string
	for k := range faults {
		how = append(how, fmt.Sprintf("%v in %d", k, fired[k]))
		if count >= 10 && fired[k] < count/10 && !t.Failed() {
			t.Errorf("%v befell %d of %d seeds: it is not tested", k, fired[k], count)
		}
	}
	t.Logf("%d seeds, %d operations, %d of unknown outcome; seeds with %s", count, ops, unknown, strings.Join(how, ", "))
}
