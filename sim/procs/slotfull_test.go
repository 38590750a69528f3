package procs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// Of the device whose slots lie on a small disk.
const (
	slotsDisk = 112 * mib // of which 64 MiB are the reserve
	slotsFile = 16 * mib
)

// TestDeviceDiskFull fills the disk that a device's slots lie on, to its last byte, in the middle of a download. The core is told, what ran goes on to
// run, and so does the agent; and when there is room again, the device converges by itself. Root.
func TestDeviceDiskFull(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t, time.Second, time.Second)
	slots := r.Path("agent-1", "slots")
	token, err := r.Token(r.ctx, "device", "device", site, 1)
	r.must(err)
	r.must(r.Eventually(r.ctx, 15*time.Second, func() error { // the gateway may still be on its way to the core
		_, err := r.EnrollAgent(r.ctx, "agent-1", r.listen, token)
		return err
	}))
	id := r.devices()[0].ID
	r.mountTmpfs(slots, slotsDisk)
	agent, err := r.StartAgent("agent-1")
	r.must(err)
	pub, err := r.NewPublisher(r.ctx, "rig")
	r.must(err)
	source := r.Path("app")
	b := make([]byte, slotsFile)
	publish := func(n int) (digest string) {
		rand.NewChaCha8([32]byte{byte(n)}).Read(b) //nolint:errcheck // never fails
		write(t, r.Path("app", "data"), b[:slotsFile/(3-n)], 0o644)
		_, a, err := pub.Publish(r.ctx, fmt.Sprintf("app@%d.0.0", n), source, fmt.Sprintf("name: app\nversion: %d.0.0\nrelease: %d\n", n, n))
		r.must(err)
		return a.Digest
	}
	one := publish(1)
	r.assign(id, "app", one)
	r.converged(30*time.Second, id, "app", one, "healthy")

	_, err = r.CLI(r.ctx, "sites", "set", site, "--content-rate", "4MiB/s")
	r.must(err)
	kept := r.Path("kept")
	write(t, r.Path("kept", "data"), b[:slotsFile/2], 0o644)
	two := publish(2)
	r.assign(id, "app", two)
	r.must(r.Eventually(r.ctx, 20*time.Second, func() error {
		var st syscall.Statfs_t
		if err := syscall.Statfs(slots, &st); err != nil {
			return err
		}
		if used := (st.Blocks - st.Bfree) * uint64(st.Bsize); used < slotsFile/2+2*mib {
			return fmt.Errorf("the disk has %d bytes", used)
		}
		return nil
	}))
	free := r.fill(slots)
	var s v1.Slot
	r.must(r.Eventually(r.ctx, 60*time.Second, func() error {
		d := r.device(id)
		s, err = SlotOf(&d, "app")
		if err == nil && (s.Artifact != two || s.State != "downloading" || s.Reason != "no_space") {
			err = fmt.Errorf("%.12s %s (%s: %s)", s.Artifact, s.State, s.Reason, s.Detail)
		}
		return err
	}))
	t.Logf("told: %s", s.Detail)
	began := time.Now()
	r.must(r.Eventually(r.ctx, 20*time.Second, func() error { // five more heartbeats
		d := r.device(id)
		if d.Presence != "online" || d.LastHeartbeatAt == nil || d.LastHeartbeatAt.Before(began.Add(5*time.Second)) {
			return errors.New("the device does not beat")
		}
		return nil
	}))
	r.same("agent-1", "app", kept)
	free()
	r.converged(60*time.Second, id, "app", two, "healthy")
	r.same("agent-1", "app", source)
	t.Logf("with room again it took %.1f s", time.Since(began).Seconds()-5)
	if n := r.stated(id, two, "healthy"); n != 1 {
		t.Errorf("healthy is in the history %d times", n)
	}
	select {
	case <-agent.Done():
		t.Errorf("the agent ended: %s", agent.Tail())
	default:
	}
}
