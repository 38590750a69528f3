package procs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// probe is the health check of the releases of these tests: how it behaves, and a path in front of its files. It notes its process group, and is
// well from when the file with .ok is there.
const probe = `#!/bin/sh
echo $$ >> $2.groups
test -e $2.ok && exit 0
case $1 in
fail) echo "no good" >&2; exit 1 ;;
hang) sleep 1000 ;;
soak) test $(wc -l < $2.groups) -le 5 ;;
esac
`

// An ailing is a device that gets a release that behaves in one way.
type ailing struct {
	name, id string
	end      string // state and reason in which the release ends
	digest   string
}

// A clinic has a device for each way in which a release behaves, all of which run the same healthy release.
type clinic struct {
	*rig
	good    string // digest of what runs everywhere
	devices []*ailing
}

func newClinic(t *testing.T) *clinic {
	t.Helper()
	r := newRig(t, time.Second, time.Second)
	token, err := r.Token(r.ctx, "device", "device", site, 4)
	r.must(err)
	c := &clinic{rig: r}
	pub, err := r.NewPublisher(r.ctx, "rig")
	r.must(err)
	c.devices = []*ailing{{name: "fail", end: "rolled_back health"}, {name: "hang", end: "rolled_back health"}, {name: "soak", end: "rolled_back soak"}, {name: "well", end: "healthy"}}
	write(t, r.Path("app", "probe"), []byte(probe), 0o755)
	_, one, err := pub.Publish(r.ctx, "app@1.0.0", r.Path("app"), "name: app\nversion: 1.0.0\nrelease: 1\n")
	r.must(err)
	c.good = one.Digest
	for i, s := range c.devices {
		spec := fmt.Sprintf("name: app\nversion: 2.%d.0\nrelease: %d\nhealth:\n  - exec: [probe, %s, %s]\n    every: 1s\n    timeout: 1s\nstart: 8s\nsoak: 8s\n", i, i+2, s.name, r.Path(s.name))
		_, a, err := pub.Publish(r.ctx, fmt.Sprintf("app@2.%d.0", i), r.Path("app"), spec)
		r.must(err)
		s.digest = a.Digest
		s.id, _ = r.addAgent(s.name, token)
		r.assign(s.id, "app", c.good)
	}
	for _, s := range c.devices {
		r.converged(20*time.Second, s.id, "app", c.good, "healthy")
	}
	return c
}

// current is the digest of what runs on a device.
func (c *clinic) current(s *ailing) string {
	c.t.Helper()
	link, err := os.Readlink(c.Path(s.name, "slots", "app", "current"))
	c.must(err)
	return filepath.Base(link)
}

// all waits until something holds for each device.
func (c *clinic) all(d time.Duration, holds func(s *ailing) error) {
	c.t.Helper()
	c.must(c.Eventually(c.ctx, d, func() error {
		for _, s := range c.devices {
			if err := holds(s); err != nil {
				return err
			}
		}
		return nil
	}))
}

// switched waits until the releases have just begun to run.
func (c *clinic) switched() {
	c.t.Helper()
	c.all(20*time.Second, func(s *ailing) error {
		if d := c.current(s); d != s.digest {
			return fmt.Errorf("%s runs %.12s", s.name, d)
		}
		return nil
	})
}

// decided waits until the device has gone back, or not, whatever the core knows of it.
func (c *clinic) decided() {
	c.t.Helper()
	c.all(40*time.Second, func(s *ailing) error {
		want := c.good
		if s.end == "healthy" {
			want = s.digest
		}
		if d := c.current(s); d != want {
			return fmt.Errorf("%s runs %.12s", s.name, d)
		}
		return nil
	})
}

// ended waits until the core knows that each release ended as it must, and looks whether the statements are just those of one attempt.
func (c *clinic) ended(states string) {
	c.t.Helper()
	c.all(40*time.Second, func(s *ailing) error { return c.slotIs(s, s.digest, s.end) })
	for _, s := range c.devices {
		end, _, _ := strings.Cut(s.end, " ")
		if got := c.course(s); got != states+" "+end {
			c.t.Errorf("%s: the history has %q", s.name, got)
		}
	}
	c.noneHangs()
}

// slotIs is an error unless what a device stated last is of an artifact, and a state with its reason.
func (c *clinic) slotIs(on *ailing, digest, end string) error {
	var d v1.Device
	if err := c.JSON(c.ctx, &d, "devices", "get", on.id); err != nil {
		return err
	}
	s, err := SlotOf(&d, "app")
	if got := strings.TrimSpace(s.State + " " + s.Reason); err == nil && (s.Artifact != digest || got != end) {
		err = fmt.Errorf("%s has %.12s %q (%s), want %.12s %q", on.name, s.Artifact, got, s.Detail, digest, end)
	}
	return err
}

// course are the states of a device's release in its history, in their order; downloads that go on are told once.
func (c *clinic) course(s *ailing) string {
	c.t.Helper()
	var all []string
	for _, it := range c.history(s.id) {
		if it.Status != nil && it.Status.Artifact == s.digest && (len(all) == 0 || all[len(all)-1] != it.Status.State) {
			all = append(all, it.Status.State)
		}
	}
	return strings.Join(all, " ")
}

// rounds is how often a device's release was checked.
func (c *clinic) rounds(s *ailing) int { return len(c.groups(s.name)) }

func (c *clinic) groups(name string) []string {
	c.t.Helper()
	b, err := os.ReadFile(c.Path(name + ".groups"))
	c.must(err)
	return strings.Fields(string(b))
}

// noneHangs holds that of no check that hung a process is left. Who was killed is there until his new parent has taken note.
func (c *clinic) noneHangs() {
	c.t.Helper()
	for _, g := range c.groups("hang") {
		pid, err := strconv.Atoi(g)
		c.must(err)
		c.must(c.Eventually(c.ctx, 10*time.Second, func() error {
			if err := syscall.Kill(-pid, 0); !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("the check of group %d is still there", pid)
			}
			return nil
		}))
	}
}

// TestUnhealthyReleases has one release fail its check, one hang in it, and one fail in its soak: the device goes back each time, and does not try
// again what failed, whatever is ordered in between, until an operator wants it.
func TestUnhealthyReleases(t *testing.T) {
	t.Parallel()
	c := newClinic(t)
	for _, s := range c.devices {
		c.assign(s.id, "app", s.digest)
	}
	c.switched()
	c.decided()
	c.ended("downloading verifying applying")

	c.devices = c.devices[:3]
	before := make(map[string]int)
	for _, s := range c.devices {
		before[s.name] = c.rounds(s)
		c.assign(s.id, "app", c.good)
	}
	c.all(20*time.Second, func(s *ailing) error { return c.slotIs(s, c.good, "healthy") })
	for _, s := range c.devices {
		c.assign(s.id, "app", s.digest)
	}
	c.all(20*time.Second, func(s *ailing) error { return c.slotIs(s, s.digest, "failed remembered") })
	for _, s := range c.devices {
		if n := c.rounds(s); n != before[s.name] || c.current(s) != c.good {
			t.Errorf("%s was tried again: %d checks, %.12s runs", s.name, n-before[s.name], c.current(s))
		}
		write(t, c.Path(s.name+".ok"), nil, 0o644)
		_, err := c.CLI(c.ctx, "devices", "retry", s.id, "--slot", "app")
		c.must(err)
	}
	c.all(40*time.Second, func(s *ailing) error { return c.slotIs(s, s.digest, "healthy") })
}

// TestDecidesWithoutCore kills the core just after the device has switched to the releases: it decides the same, and what it decided arrives when
// the core is back.
func TestDecidesWithoutCore(t *testing.T) {
	t.Parallel()
	c := newClinic(t)
	for _, s := range c.devices {
		c.assign(s.id, "app", s.digest)
	}
	c.switched()
	c.core.Kill()
	c.decided()
	c.launch(c.cores[0])
	c.ended("downloading verifying applying")
}
