package procs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What makes this test's binary run one test in a network of its own, and where the programs are that it need not build again.
const (
	netnsChild = "HOLDFAST_TEST_NETNS"
	netnsBin   = "HOLDFAST_TEST_BIN"
)

// inNetns tells whether this process has a network of its own, in which a firewall harms nobody. If not, it runs the same test
// once more in a process that has, and takes over what comes of it.
func inNetns(t *testing.T) bool {
	t.Helper()
	needRoot(t)
	if os.Getenv(netnsChild) != "" {
		if err := loopbackUp(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=20m")
	cmd.Env = append(os.Environ(), netnsChild+"=1", netnsBin+"="+bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("in a network of its own: %v", err)
	}
	return false
}

// loopbackUp brings up the one interface that a new network has.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up the loopback: %w", err)
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring up the loopback: %w", err)
	}
	return nil
}

// A firewall is the kernel's own, in this process's network.
type firewall struct {
	nft   *nftables.Conn
	table *nftables.Table
}

// dropUDP begins to drop every UDP packet that comes in, without a word to its sender.
func dropUDP() (*firewall, error) {
	nft, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	f := &firewall{nft: nft}
	f.table = nft.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "holdfast_test"})
	chain := nft.AddChain(&nftables.Chain{
		Name: "in", Table: f.table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	nft.AddRule(&nftables.Rule{Table: f.table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := nft.Flush(); err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	return f, nil
}

func (f *firewall) lift() error {
	f.nft.DelTable(f.table)
	if err := f.nft.Flush(); err != nil {
		return fmt.Errorf("lift the firewall: %w", err)
	}
	return nil
}

// carrier is what the newest line with the message in a process's output says of the carrier; "": there is none.
func carrier(p *Proc, msg string) (last string) {
	for line := range strings.Lines(p.Output()) {
		var l struct{ Msg, Carrier string }
		if json.Unmarshal([]byte(line), &l) == nil && l.Msg == msg {
			last = l.Carrier
		}
	}
	return last
}

// TestFirewall drops UDP with the kernel's firewall, between agents and gateway and between gateway and core, and lifts that
// again. Root.
func TestFirewall(t *testing.T) {
	t.Parallel()
	if !inNetns(t) {
		return
	}
	r := newRig(t, 30*time.Second, 5*time.Second)
	agents := map[string]*Proc{}
	add := func(name string) {
		token, err := r.Token(r.ctx, name, "device", site, 1)
		r.must(err)
		_, err = r.EnrollAgent(r.ctx, name, r.listen, token)
		r.must(err)
		agents[name], err = r.StartAgent(name)
		r.must(err)
	}
	// over waits until everybody's newest session runs over the carrier; nobody may be shown offline meanwhile.
	over := func(want string, limit time.Duration) time.Duration {
		began := time.Now()
		r.must(r.Eventually(r.ctx, limit, func() error {
			for _, d := range r.devices() {
				if d.Presence == "offline" && d.PresenceReason != "never_connected" {
					t.Fatalf("device %s is offline (%s)", d.ID, d.PresenceReason)
				}
			}
			var errs []error
			for name, p := range agents {
				if c := carrier(p, "attached"); c != want {
					errs = append(errs, fmt.Errorf("%s is over %q", name, c))
				}
			}
			if c := carrier(r.gateway, "uplink open"); c != want {
				errs = append(errs, fmt.Errorf("the uplink is over %q", c))
			}
			return errors.Join(errs...)
		}))
		return time.Since(began)
	}
	for i := range 3 {
		add(fmt.Sprintf("agent-%d", i+1))
	}
	over("quic", 20*time.Second)
	wall, err := dropUDP()
	r.must(err)
	live := over("tcp", 20*time.Second)
	began := time.Now()
	add("late") // which enrolls over TCP, too
	over("tcp", time.Until(began.Add(5*time.Second)))
	dialled := time.Since(began)
	r.must(wall.lift())
	back := over("quic", 5*time.Minute)
	t.Logf("live sessions were over TCP after %.1f s, a new device was enrolled and attached after %.1f s, and all were back after %.0f s", live.Seconds(), dialled.Seconds(), back.Seconds())
	for _, d := range r.devices() {
		if h := r.history(d.ID); len(h) != 1 {
			t.Errorf("device %s registered %d times", d.ID, len(h))
		}
	}
}
