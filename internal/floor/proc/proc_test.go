package proc

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// childVariable makes the test binary print what a pinned process sees.
const childVariable = "HOLDFAST_PROC_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		cpus, err := AllowedCPUs()
		_, _ = fmt.Fprintf(os.Stdout, "cpus %v procs %d err %v", cpus, runtime.GOMAXPROCS(0), err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// burn uses CPU time, not wall time, up to the given amount.
func burn(t *testing.T, amount time.Duration) {
	t.Helper()
	begin, err := CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var b [1 << 12]byte
	for now := begin; now-begin < amount; {
		for range 16 {
			s := sha256.Sum256(b[:])
			copy(b[:], s[:])
		}
		if now, err = CPUTime(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCPUTimeCountsWork(t *testing.T) {
	begin, err := CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	wall := time.Now()
	burn(t, 20*time.Millisecond)
	end, err := CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	limit := time.Since(wall) * time.Duration(runtime.NumCPU())
	if used := end - begin; used < 20*time.Millisecond || used > limit {
		t.Errorf("used %v, want 20 ms to %v", used, limit)
	}
}

func TestCPUTimeOfAnotherProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	used, err := CPUTime(pid)
	if err != nil || used < 0 || used > 10*time.Second {
		t.Errorf("sleeping process used %v, %v", used, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("killed process ended well")
	}
	if used, err := CPUTime(pid); err == nil {
		t.Errorf("process that is gone used %v, want an error", used)
	}
}

func TestCPUTimeRefusesNonsense(t *testing.T) {
	for _, pid := range []int{0, -1, math.MinInt32, maxPID + 1, math.MaxInt32} {
		if _, err := CPUTime(pid); !errors.Is(err, ErrPID) {
			t.Errorf("process %d: %v, want ErrPID", pid, err)
		}
	}
}

func TestMachineBusyGrows(t *testing.T) {
	begin, err := MachineBusy()
	if err != nil {
		t.Fatal(err)
	}
	burn(t, 50*time.Millisecond)
	end, err := MachineBusy()
	if err != nil {
		t.Fatal(err)
	}
	if end-begin < 20*time.Millisecond {
		t.Errorf("machine was busy for %v while we worked for 50 ms", end-begin)
	}
}

func TestParseMachineBusy(t *testing.T) {
	for _, c := range []struct {
		stat string
		want time.Duration // -1: error
	}{
		{"cpu  1 2 4 1000 2000 8 16 32 4000 8000\ncpu0 1 1 1\n", 63 * userTick},
		{"cpu  1 2 4 1000 2000 8 16 32", 63 * userTick},
		{"cpu  1 2 4 1000 2000 8 16\n", -1},
		{"cpu0  1 2 4 1000 2000 8 16 32\n", -1},
		{"cpu  1 2 x 1000 2000 8 16 32\n", -1},
		{"cpu  281474976710655 2 3 1000 2000 8 16 32\n", -1},
		{"", -1},
	} {
		got, err := parseMachineBusy([]byte(c.stat))
		if c.want < 0 {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%q: %v, %v, want ErrFormat", c.stat, got, err)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%q: %v, %v, want %v", c.stat, got, err, c.want)
		}
	}
}

func TestMemoryOf(t *testing.T) {
	debug.FreeOSMemory() // or what an earlier run held is taken again, and nothing grows
	before, err := MemoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	ballast := make([]byte, 32<<20)
	for i := 0; i < len(ballast); i += 1 << 10 {
		ballast[i] = 1
	}
	after, err := MemoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(ballast)
	if grown := after.RSS - before.RSS; grown < 24<<20 || grown > 128<<20 {
		t.Errorf("rss grew by %d with 32 MiB more", grown)
	}
	if after.Anonymous+after.File > after.RSS || after.Peak < before.RSS || after.Threads < 1 {
		t.Errorf("inconsistent: %+v", after)
	}
	if _, err := MemoryOf(-1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no process: %v, want os.ErrNotExist", err)
	}
}

func TestParseStatus(t *testing.T) {
	const good = "Name:\tx\nVmHWM:\t    90 kB\nVmRSS:\t    60 kB\nRssAnon:\t  20 kB\nRssFile:\t 40 kB\nThreads:\t7\n"
	m, err := parseStatus([]byte(good))
	want := Memory{RSS: 60 << 10, Anonymous: 20 << 10, File: 40 << 10, Peak: 90 << 10, Threads: 7}
	if err != nil || m != want {
		t.Errorf("%+v, %v, want %+v", m, err, want)
	}
	for _, bad := range []string{
		"", strings.Replace(good, "VmRSS", "VmRss", 1), strings.Replace(good, "60 kB", "-60 kB", 1),
		strings.Replace(good, "60 kB", "", 1), strings.Replace(good, "60", "99999999999999999999", 1),
	} {
		if m, err := parseStatus([]byte(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %+v, %v, want ErrFormat", bad, m, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("cpu  1 2 4 1000 2000 8 16 32 4000 8000\n"))
	f.Add([]byte("VmHWM:\t1 kB\nVmRSS:\t1 kB\nRssAnon:\t1 kB\nRssFile:\t1 kB\nThreads:\t7\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if busy, err := parseMachineBusy(b); busy < 0 || (err != nil && !errors.Is(err, ErrFormat)) {
			t.Errorf("busy %v, %v", busy, err)
		}
		if m, err := parseStatus(b); m.RSS < 0 || (err != nil && !errors.Is(err, ErrFormat)) {
			t.Errorf("%+v, %v", m, err)
		}
	})
}

func TestStartPinned(t *testing.T) {
	before, err := AllowedCPUs()
	if err != nil || len(before) == 0 {
		t.Fatalf("allowed cpus %v, %v", before, err)
	}
	for _, cpu := range before {
		want := fmt.Sprintf("cpus [%d] procs 1 err <nil>", cpu)
		if got := runChild(t, cpu); got != want {
			t.Errorf("child on cpu %d says %q, want %q", cpu, got, want)
		}
	}
	want := fmt.Sprintf("cpus %v ", before)
	if got := runChild(t, AnyCPU); !strings.HasPrefix(got, want) {
		t.Errorf("child that is not pinned says %q, want %q", got, want)
	}
	after, err := AllowedCPUs()
	if err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("after pinning children this process may use %v (%v), before %v", after, err, before)
	}
}

func runChild(t *testing.T, cpu int) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"=1")
	cmd.Stdout = &out
	if err := StartPinned(cmd, cpu); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestStartPinnedRefusesWhatIsNotThere(t *testing.T) {
	for _, cpu := range []int{-2, 1023, 1 << 20} {
		cmd := exec.Command("sleep", "60")
		if err := StartPinned(cmd, cpu); !errors.Is(err, ErrCPU) {
			t.Errorf("cpu %d: %v, want ErrCPU", cpu, err)
		}
		if cmd.Process != nil {
			t.Errorf("cpu %d: a process was started", cpu)
		}
	}
	if err := StartPinned(exec.Command("/does/not/exist"), AnyCPU); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v, want os.ErrNotExist", err)
	}
}

func TestForeignLeavesOutOurOwn(t *testing.T) {
	f, err := StartForeign()
	if err != nil {
		t.Fatal(err)
	}
	burn(t, 200*time.Millisecond)
	share, err := f.Share()
	if err != nil {
		t.Fatal(err)
	}
	_, own, err := f.read()
	if err != nil || own-f.own < 200*time.Millisecond {
		t.Errorf("own time grew by %v (%v), want 200 ms", own-f.own, err)
	}
	// What others do cannot be known here, but all cores less what we used ourselves bound it, give or take the ticks in which
	// the machine counts.
	elapsed := time.Since(f.begin)
	ticks := float64(runtime.NumCPU()) * 30 * float64(time.Millisecond)
	if limit := float64(runtime.NumCPU()) - (float64(own-f.own)-ticks)/float64(elapsed); share < 0 || share > limit {
		t.Errorf("share %.2f, want 0 to %.2f", share, limit)
	}
	if _, err := StartForeign(math.MaxInt32); err == nil {
		t.Error("a process that does not exist is ours")
	}
}

func TestForeignShare(t *testing.T) {
	if got := foreignShare(3*time.Second, time.Second, 4*time.Second); got != 0.5 {
		t.Errorf("share %v, want 0.5", got)
	}
	if got := foreignShare(time.Second, 2*time.Second, time.Second); got != 0 {
		t.Errorf("share %v, want 0: ticks may lag", got)
	}
}
