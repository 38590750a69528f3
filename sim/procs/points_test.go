package procs

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// These are what the tests that kill programs at system calls have in common.

func needStrace(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skipf("SKIPPED, COUNT ME: the program strace is missing: %v", err)
	}
}

// A point is a moment at which a program can be killed: before one of its threads makes a system call for the nth time. That is
// how strace counts.
type point struct {
	call string
	n    int
}

func (p point) String() string { return fmt.Sprintf("%s %d", p.call, p.n) }

// kill are the options that have strace kill at the point.
func (p point) kill() []string {
	return []string{"-o", "/dev/null", "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", p.call, p.n)}
}

// madeCall is how strace shows that a thread makes a call. The end of one that was interrupted begins with "<...".
var madeCall = regexp.MustCompile(`^(\d+) +([a-z0-9_]+)\(`)

// points reads what strace wrote of a whole run. Files that are opened only to be read are no points.
func points(path string) ([]point, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	made, found := make(map[string]int), make(map[point]bool)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		m := madeCall.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		made[m[1]+m[2]]++
		if m[2] != "openat" || strings.Contains(lines.Text(), "O_CREAT") {
			found[point{m[2], made[m[1]+m[2]]}] = true
		}
	}
	var out []point
	for p := range found {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b point) int { return cmp.Or(cmp.Compare(a.call, b.call), a.n-b.n) })
	return out, lines.Err()
}

// rareCall: a call that is made less often than this belongs to every sample.
const rareCall = 6

// sample are the points that are tried: n of them at random, the rarest calls always. HOLDFAST_KILLS says another number; all: every one.
func sample(t *testing.T, exist []point, n int) []point {
	t.Helper()
	todo, calls := slices.Clone(exist), make(map[string]int)
	for _, p := range exist {
		calls[p.call] = min(calls[p.call]+1, rareCall)
	}
	rand.Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] })
	slices.SortStableFunc(todo, func(a, b point) int { return cmp.Compare(calls[a.call], calls[b.call]) })
	switch s := os.Getenv("HOLDFAST_KILLS"); s {
	case "all":
		return todo
	case "":
	default:
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 1 {
			t.Fatalf("HOLDFAST_KILLS=%q is neither a number of points nor all", s)
		}
	}
	return todo[:min(n, len(todo))]
}

// enough fails the test when too few points were reached: how calls are spread over threads is another each time, but the rare ones come
// always.
func enough(t *testing.T, killed int64, tried int) {
	t.Helper()
	if killed < int64(tried/5) {
		t.Errorf("only %d of %d points were reached", killed, tried)
	}
}

// killEach kills victims at points, each victim at one point after the other, and returns how many points were reached.
func killEach[V any](victims []V, todo []point, kill func(V, point) (killed bool, err error)) (int64, error) {
	var next, killed atomic.Int64
	var eg errgroup.Group
	for _, v := range victims {
		eg.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(todo)); i = next.Add(1) - 1 {
				hit, err := kill(v, todo[i])
				if err != nil {
					return err
				}
				if hit {
					killed.Add(1)
				}
			}
			return nil
		})
	}
	err := eg.Wait()
	return killed.Load(), err
}

// traced runs a program under strace, whose options are the first of args, and has it work and end. It returns whether it was killed.
func (f *Fleet) traced(name string, args []string, work func(p *Proc) error) (killed bool, err error) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		return false, err
	}
	p, err := f.start(name, strace, append([]string{"-D", "-f", "-qqq"}, args...)...)
	if err != nil {
		return false, err
	}
	defer p.Kill()
	if err = work(p); err == nil {
		err = p.Stop()
	}
	if errors.Is(err, ErrStuck) {
		return false, err
	}
	if _, stuck := p.Exit(5 * time.Second); stuck != nil {
		return false, errors.Join(stuck, err)
	}
	if p.signaled() {
		return true, nil
	}
	return false, err
}
