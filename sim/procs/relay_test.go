package procs

import (
	"encoding/binary"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// cutOffGroup is the group of the processes that cutOff cuts off.
const cutOffGroup = 54321

// cutOff begins to drop, without a word, what processes of cutOffGroup send to a port.
func cutOff(addr string) (*firewall, error) {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return nil, err
	}
	nft, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	f := &firewall{nft: nft}
	f.table = nft.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "holdfast_test"})
	chain := func(name string, at *nftables.ChainHook) *nftables.Chain {
		return nft.AddChain(&nftables.Chain{Name: name, Table: f.table, Type: nftables.ChainTypeFilter, Hooknum: at, Priority: nftables.ChainPriorityFilter})
	}
	// Dropped where it is sent it would be an error there: it is marked, and dropped where it arrives.
	nft.AddRule(&nftables.Rule{Table: f.table, Chain: chain("out", nftables.ChainHookOutput), Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKGID, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, cutOffGroup)},
		// UDP and TCP have the port at the same place.
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, uint16(port))},
		&expr.Immediate{Register: 1, Data: binary.NativeEndian.AppendUint32(nil, cutOffGroup)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}})
	nft.AddRule(&nftables.Rule{Table: f.table, Chain: chain("in", nftables.ChainHookInput), Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, cutOffGroup)},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := nft.Flush(); err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	return f, nil
}

// TestRelay cuts one of two gateways off from the core with the kernel's firewall, and joins them again. The devices of both stay
// online, and what they state arrives, through the other gateway. Root.
func TestRelay(t *testing.T) {
	t.Parallel()
	if !inNetns(t) {
		return
	}
	r := prepareRig(t, 2*time.Second)
	r.groups = map[string]uint32{"gw-a": cutOffGroup}
	r.startCores(1)
	r.interval(5 * time.Second)
	r.addGateway()
	listenB := r.enrollGateway("gw-b")
	gwB, err := r.StartGateway("gw-b")
	r.must(err)
	r.uplinked(r.gateway)
	r.uplinked(gwB)
	token, err := r.Token(r.ctx, "device", "device", site, 2)
	r.must(err)
	var ids []string
	var agents []*Proc
	for i, listen := range []string{r.listen, listenB} {
		name := fmt.Sprintf("agent-%d", i)
		id, err := r.EnrollAgent(r.ctx, name, listen, token)
		r.must(err)
		a, err := r.StartAgent(name)
		r.must(err)
		ids, agents = append(ids, id), append(agents, a)
	}
	for _, id := range ids {
		r.registrations(id, 1)
		r.until(15*time.Second, id, "online", "")
	}
	// through waits until gw-a reaches the core through a sibling, "": through none. Meanwhile nobody may be shown offline.
	through := func(sibling string, limit time.Duration) time.Duration {
		began := time.Now()
		r.must(r.Eventually(r.ctx, limit, func() error {
			for _, d := range r.devices() {
				if d.Presence == "offline" {
					t.Fatalf("device %s is offline (%s)", d.ID, d.PresenceReason)
				}
			}
			all, err := all[v1.Gateway](r.ctx, r.api, r.cores[0], "/v1/gateways")
			if err != nil {
				return err
			}
			if u := all[0].Uplink; u == nil || u.Relay != sibling {
				return fmt.Errorf("%s has the uplink %+v", all[0].Name, u)
			}
			return nil
		}))
		return time.Since(began)
	}
	through("", 5*time.Second)
	wall, err := cutOff(r.Uplink)
	r.must(err)
	took := through("gw-b", 15*time.Second)
	text, err := r.CLI(r.ctx, "gateways", "list")
	r.must(err)
	if !strings.Contains(string(text), "core-1 via gw-b") {
		t.Errorf("the command line shows\n%s", text)
	}
	r.must(agents[0].Stop())
	_, err = r.StartAgent("agent-0", "--tag", "n=1")
	r.must(err)
	r.registrations(ids[0], 2)
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); {
		through("gw-b", time.Second)
	}
	r.must(wall.lift())
	back := through("", 90*time.Second)
	t.Logf("relayed %.1f s after the cut, direct %.0f s after the WAN was back", took.Seconds(), back.Seconds())
}
