package procs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// Of the small gateway: a disk, and a quota of which a quarter is a segment.
const (
	smallDisk    = 4 << 20
	smallQuota   = 1 << 20
	smallSegment = smallQuota / 4
)

// TestGatewayDiskFull fills the spool of a gateway up to its quota, and then the disk under it, while the core is out of reach.
// What was accepted stays, what comes is answered with hold, and when there is room again all goes on by itself and the bytes
// are given back. Root.
func TestGatewayDiskFull(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := prepareRig(t, time.Second)
	r.startCores(1)
	r.mountTmpfs(r.Path("gw-a"), smallDisk)
	r.listen = r.enrollGateway("gw-a")
	var err error
	r.gateway, err = r.StartGateway("gw-a", "--spool-quota", fmt.Sprint(smallQuota))
	r.must(err)
	r.uplinked(r.gateway)
	b := r.newBox("box", r.listen)
	b.tags = make(map[string]string) // a statement of some 12 kB
	for i := range 45 {
		b.tags[fmt.Sprintf("t%d", i)] = strings.Repeat("x", 256)
	}
	ctx, cancel := context.WithTimeout(r.ctx, boxPatience)
	defer cancel()
	s, err := b.open(ctx)
	r.must(err)
	defer s.Close()
	r.must(errors.Join(b.state(s, 1), b.settle(s)))

	r.freeze()
	held := r.untilHeld(b, s)
	t.Logf("at its quota the spool had taken %d statements and %d bytes of the disk", held, r.spoolBytes())
	r.thaw()
	healed := r.untilTaken(b, s)
	r.must(b.settle(s))
	t.Logf("with the core back it took statements again after %.1f s", healed.Seconds())
	r.drained("after the quota was used up")

	r.freeze()
	free := r.fill(r.Path("gw-a"))
	held = r.untilHeld(b, s)
	t.Logf("on a full disk it took %d statements", held)
	free()
	healed = r.untilTaken(b, s) // with the core still out of reach
	t.Logf("with room on the disk it took statements again after %.1f s", healed.Seconds())
	r.thaw()
	r.must(b.settle(s))
	r.drained("after the disk was full")
	r.must(r.conserved(b))
	select {
	case <-r.gateway.Done():
		t.Errorf("the gateway ended: %s", r.gateway.Tail())
	default:
	}
}

// untilHeld has a box state until its gateway answers hold, and returns how much that took.
func (r *rig) untilHeld(b *box, s *link.Session) uint64 {
	r.t.Helper()
	before := b.kept
	err := b.state(s, 2*smallQuota/12000)
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.CodeHold || e.RetryAfter() == 0 {
		r.t.Fatalf("after %d statements: %v, want hold and when to try again", b.kept-before, err)
	}
	return b.kept - before
}

// untilTaken has a box try again until a statement is in custody, and returns how long that took.
func (r *rig) untilTaken(b *box, s *link.Session) time.Duration {
	r.t.Helper()
	began := time.Now()
	r.must(r.Eventually(r.ctx, 15*time.Second, func() error { return b.state(s, 1) }))
	return time.Since(began)
}

// drained waits until a gateway's spool takes no more than two segments of the disk.
func (r *rig) drained(when string) {
	r.t.Helper()
	r.must(r.Eventually(r.ctx, 10*time.Second, func() error {
		if n := r.spoolBytes(); n > 2*smallSegment {
			return fmt.Errorf("%s the drained spool has %d bytes of the disk, want at most two segments of %d", when, n, smallSegment)
		}
		return nil
	}))
	r.t.Logf("%s the drained spool has %d bytes of the disk", when, r.spoolBytes())
}

// spoolBytes is what the spool takes of the disk, reserved room included.
func (r *rig) spoolBytes() (n int64) {
	r.t.Helper()
	files, err := filepath.Glob(r.Path("gw-a", "spool", "*"))
	r.must(err)
	for _, path := range files {
		st, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // trimmed meanwhile
		}
		r.must(err)
		n += st.Sys().(*syscall.Stat_t).Blocks * 512
	}
	return n
}
