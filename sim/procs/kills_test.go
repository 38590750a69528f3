package procs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// changing are the system calls by which a gateway changes what outlives it, and by which it says something.
const changing = "pwrite64,write,fdatasync,fsync,ftruncate,fallocate,renameat,renameat2,linkat,unlinkat,mkdirat,openat"

const (
	killSample  = 50 // points in a run, unless HOLDFAST_KILLS=all
	killWorkers = 4  // gateways that are killed at the same time, one device behind each
	killLoad    = 48 // statements of one life of a gateway, taken one by one, and as many at once
)

// A victim is a gateway that is killed again and again, and the device behind it.
type victim struct {
	*rig
	name   string
	device *box
}

// live has the gateway take statements, bring them to the core, have them trimmed and end. It returns whether it was killed.
func (v *victim) live(args ...string) (killed bool, err error) {
	args = append([]string{"-e", "trace=" + changing}, args...)
	return v.traced(v.name, append(args, filepath.Join(v.Bin, "holdfast-gateway"), "run", "--data-dir", v.Path(v.name)), func(p *Proc) error {
		return v.serve(p, killLoad)
	})
}

// serve has the device state n statements through a process of its gateway, as many again at once, and waits for their receipt.
func (v *victim) serve(p *Proc, n uint64) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithTimeout(v.ctx, 30*time.Second)
	defer cancel()
	wg.Go(func() {
		select {
		case <-p.Done():
			cancel() // to dial on makes no sense
		case <-ctx.Done():
		}
	})
	s, err := v.device.open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	for range n { // each is a batch of its own
		if err := v.device.state(s, 1); err != nil {
			return err
		}
	}
	if err := v.device.state(s, n); err != nil {
		return err
	}
	return v.device.settle(s)
}

// check starts the gateway again, as it is shipped, and waits until the core has everything that was ever in its custody.
func (v *victim) check() error {
	p, err := v.StartGateway(v.name)
	if err != nil {
		return err
	}
	defer p.Kill()
	if err := v.serve(p, 1); err != nil {
		return fmt.Errorf("%w: %s", err, p.Tail())
	}
	return nil
}

// kill kills the gateway at a point, and checks what came of it.
func (v *victim) kill(at point) (killed bool, err error) {
	killed, err = v.live(at.kill()...)
	if err == nil {
		err = v.check()
	}
	if err != nil {
		return killed, fmt.Errorf("%s, killed at %v: %w", v.name, at, err)
	}
	return killed, nil
}

// TestGatewayKilledAtSystemCalls kills gateways before system calls that change something, while they take statements, bring them
// to the core and forget them. Whatever was in custody is in the core's history once. HOLDFAST_KILLS says how many points are
// tried; all: every one.
func TestGatewayKilledAtSystemCalls(t *testing.T) {
	t.Parallel()
	needStrace(t)
	r := prepareRig(t, time.Second)
	r.startCores(1)
	var victims []*victim
	for i := range killWorkers {
		v := &victim{rig: r, name: fmt.Sprintf("gw-%d", i+1)}
		listen := r.enrollGateway(v.name)
		p, err := r.StartGateway(v.name)
		r.must(err)
		r.uplinked(p)
		v.device = r.newBox(fmt.Sprintf("box-%d", i+1), listen)
		p.Kill()
		r.must(v.check()) // so that each life finds a segment that it can forget
		victims = append(victims, v)
	}
	trace := r.Path("calls")
	_, err := victims[0].live("-o", trace)
	r.must(err)
	exist, err := points(trace)
	r.must(err)
	todo := sample(t, exist, killSample)
	began := time.Now()
	killed, err := killEach(victims, todo, (*victim).kill)
	r.must(err)
	var kept uint64
	for _, v := range victims {
		r.must(r.conserved(v.device))
		kept += v.device.kept
	}
	t.Logf("%d points exist, %d were tried and %d came to be reached, in %.1f s; %d statements were in custody, each is in the history once",
		len(exist), len(todo), killed, time.Since(began).Seconds(), kept)
	enough(t, killed, len(todo))
	r.must(victims[0].hasty())
}

// hasty is the control: it is as if the gateway had acknowledged what it had not written yet, when it is killed before it writes
// that. The same checker must find it lost. Which write a life ends before nobody knows beforehand: when it was a later one, the
// statement is on the disk and arrives, and another life is tried.
func (v *victim) hasty() error {
	for range 10 {
		if lost, err := v.hastyLife(); lost || err != nil {
			return err
		}
	}
	return errors.New("control: of statements that were never written none is found lost: the test proves nothing")
}

func (v *victim) hastyLife() (lost bool, err error) {
	b := v.device
	for try := 0; len(b.pending) == 0; try++ { // nobody knows which thread will write
		if try == 20 {
			return false, errors.New("control: in 20 lives no write of a statement could be prevented")
		}
		if _, err := v.live("-o", "/dev/null", "-e", "inject=pwrite64:signal=KILL:when=5"); err != nil {
			return false, err
		}
	}
	b.custody(b.signed)
	p, err := v.StartGateway(v.name)
	if err != nil {
		return false, err
	}
	defer p.Kill()
	ctx, cancel := context.WithTimeout(v.ctx, boxPatience)
	defer cancel()
	s, err := b.open(ctx)
	if err != nil {
		return false, err
	}
	defer s.Close()
	if err := b.state(s, 1); err != nil {
		return false, err
	}
	err = v.Eventually(ctx, boxPatience, func() error {
		items, err := all[v1.HistoryItem](ctx, v.api, v.cores[0], "/v1/devices/"+b.id+"/history")
		if err == nil && !slices.ContainsFunc(items, func(it v1.HistoryItem) bool { return it.Seq == b.kept }) {
			err = fmt.Errorf("control: statement %d has not come yet", b.kept)
		}
		return err
	})
	return err == nil && v.conserved(b) != nil, err
}
