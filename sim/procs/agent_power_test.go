package procs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// agentCuts is how often TestAgentPowerCut cuts, unless HOLDFAST_CUTS says how often.
const agentCuts = 6

// TestAgentPowerCut takes the power from a device's disk at random moments of updates and of rollbacks, by turns. What current points to is
// whole afterwards, and the device ends as it has to, once in the history. TestPowerCutIsNoticed is the control of the cut, and
// TestAgentKilledAtSystemCalls has the one of what is looked at. Root.
func TestAgentPowerCut(t *testing.T) {
	t.Parallel()
	needRoot(t, "mkfs.ext4", "mount", "losetup")
	want := cutsAsked(t)
	if want == 0 {
		want = agentCuts
	}
	r := prepareRig(t, time.Second)
	r.startCores(1)
	pub, err := r.NewPublisher(r.ctx, "rig")
	r.must(err)
	e := r.publishEditions(pub)
	d := r.newDisk(r.Path("agent"))
	h := r.newHolder("agent", e)
	began, amid := time.Now(), 0
	plots := []struct {
		plot
		takes time.Duration // from the start of the agent to the end, at the least
	}{{plot{"update", update}, 700 * time.Millisecond}, {plot{"rollback", rollback}, 1200 * time.Millisecond}}
	for i := range want {
		pl := plots[i%len(plots)]
		after := rand.N(pl.takes)
		under, err := h.powerCut(d, pl.plot, after)
		if err != nil {
			t.Fatalf("cut %d, %v after the start of the agent during %s: %v", i+1, after, pl.name, err)
		}
		if under {
			amid++
		}
	}
	r.must(h.told(h.endings...))
	t.Logf("%d cuts in %.0f s, %d of them before the end of what was under way; each order ended once in the history and as it had to",
		want, time.Since(began).Seconds(), amid)
	if amid == 0 {
		t.Error("nothing was under way at any cut: this proves nothing")
	}
}

// powerCut cuts the disk of the device some time after the start of its agent, and brings it back. It tells whether the order was under way.
func (h *holder) powerCut(d *disk, pl plot, after time.Duration) (under bool, err error) {
	before := h.now
	e, err := h.begin(pl)
	if err != nil {
		return false, err
	}
	p, err := h.StartAgent(h.name)
	if err != nil {
		return false, err
	}
	defer p.Kill()
	pause(h.ctx, after)
	// A power cut takes the process with the disk: an fsync that is under way while ext4 is shut down can come back without an error and without
	// having been written, and the agent must not come to say what it believes to be safe then.
	if err := h.halt(p); err != nil {
		return false, err
	}
	if err := cut(d); err != nil {
		return false, err
	}
	under = !bytes.Contains([]byte(p.Output()), fmt.Appendf(nil, `"state":%q`, e.state))
	p.Kill()
	d.replug()
	if err := h.runs(e, before, false); err != nil {
		return under, err
	}
	return under, h.goOn(e)
}

// halt stops a process where it is, and waits until none of its threads does anything but wait for the disk.
func (h *holder) halt(p *Proc) error {
	if err := syscall.Kill(p.Pid(), syscall.SIGSTOP); err != nil {
		return err
	}
	return h.Eventually(h.ctx, 10*time.Second, func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid()))
		if err != nil {
			return err
		}
		for _, path := range threads {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			_, after, _ := bytes.Cut(b, []byte(") ")) // behind the name
			if state := after[:1]; !bytes.Contains([]byte("TD"), state) {
				return fmt.Errorf("%s is %s, not stopped", path, state)
			}
		}
		return nil
	})
}
