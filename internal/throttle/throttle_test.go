package throttle

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := Failures{PerSecond: 1, Burst: 3}
		if !f.Allowed("a") {
			t.Fatal("refused before it failed")
		}
		for i := range 3 {
			if !f.Allowed("a") || !f.Failed("a") {
				t.Errorf("failure %d is beyond the limit", i+1)
			}
		}
		if f.Allowed("a") || f.Failed("a") {
			t.Error("allowed beyond the limit")
		}
		if !f.Allowed("b") {
			t.Error("another source pays for it")
		}
		time.Sleep(time.Second)
		if !f.Allowed("a") {
			t.Error("never allowed again")
		}
		if !f.Failed("a") || f.Allowed("a") {
			t.Error("a second buys one failure")
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	f := Failures{PerSecond: 1, Burst: 1}
	for i := range 3 * maxSources {
		f.Failed(strconv.Itoa(i))
		if len(f.by) > maxSources {
			t.Fatalf("%d sources kept", len(f.by))
		}
	}
}
