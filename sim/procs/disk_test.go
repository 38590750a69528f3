package procs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests mount file systems, which takes root. Without it they are skipped with a line that can be counted; as root they
// fail where a mount does.

// needRoot skips a test for everybody but root, and where one of the tools is missing.
func needRoot(t *testing.T, tools ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, COUNT ME: what this test does to the system takes root")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED, COUNT ME: the program %s is missing: %v", tool, err)
		}
	}
}

// mountTmpfs makes dir a file system in memory of so many bytes.
func (r *rig) mountTmpfs(dir string, size int) {
	r.t.Helper()
	r.must(os.MkdirAll(dir, 0o700))
	r.must(unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)))
	r.t.Cleanup(func() {
		r.Close() // nobody may use what is taken away
		r.unmount(dir)
	})
}

// unmount takes a file system away. Its users have ended, but the kernel may still be letting go of what they had open.
func (r *rig) unmount(dir string) {
	r.t.Helper()
	if err := r.Eventually(context.Background(), 20*time.Second, func() error { return unix.Unmount(dir, 0) }); err != nil {
		r.t.Errorf("unmount %s: %v", dir, err)
	}
}

// A disk is an ext4 file system in a file, which can lose its power.
type disk struct {
	r          *rig
	image, dir string
}

// diskBytes holds a node: 16 MiB that the history reserves, the log, snapshots, and ext4's own journal.
const diskBytes = 128 << 20

// newDisk makes an empty file system for dir and mounts it.
func (r *rig) newDisk(dir string) *disk {
	r.t.Helper()
	d := &disk{r: r, image: dir + ".ext4", dir: dir}
	f, err := os.Create(d.image)
	r.must(err)
	r.must(errors.Join(f.Truncate(diskBytes), f.Close()))
	d.run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1", d.image)
	r.must(os.MkdirAll(dir, 0o700))
	d.mount()
	r.t.Cleanup(func() {
		r.Close()
		r.unmount(dir)
	})
	r.must(os.Remove(filepath.Join(dir, "lost+found"))) // init and join want an empty directory
	return d
}

func (d *disk) run(program string, args ...string) {
	d.r.t.Helper()
	if out, err := exec.CommandContext(d.r.ctx, program, args...).CombinedOutput(); err != nil {
		d.r.t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
	}
}

func (d *disk) mount() {
	d.r.t.Helper()
	d.run("mount", "-o", "loop", d.image, d.dir)
}

// What FS_IOC_SHUTDOWN does with flag 2: the file system stops at once and writes nothing more, not even its journal. What
// was not synced is gone at the next mount, as after a power cut.
const (
	shutdownRequest = 0x8004587d
	noLogFlush      = 2
)

// cut takes the power from several disks at once. From then on everything that is done on them fails.
func cut(disks ...*disk) error {
	errs := make([]error, len(disks))
	var ready, done sync.WaitGroup
	now := make(chan struct{})
	ready.Add(len(disks))
	for i, d := range disks {
		done.Go(func() {
			f, err := os.Open(d.dir)
			ready.Done()
			if err != nil {
				errs[i] = err
				return
			}
			<-now
			errs[i] = errors.Join(unix.IoctlSetPointerInt(int(f.Fd()), shutdownRequest, noLogFlush), f.Close())
		})
	}
	ready.Wait()
	close(now)
	done.Wait()
	return errors.Join(errs...)
}

// replug gives a disk its power back. Nobody may use it any more.
func (d *disk) replug() {
	d.r.t.Helper()
	d.r.unmount(d.dir)
	d.mount()
}

// fill takes all the space of the file system that dir is on, and returns what gives it back.
func (r *rig) fill(dir string) (free func()) {
	r.t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	r.must(err)
	chunk := make([]byte, 64<<10)
	for size := len(chunk); size > 0; {
		_, err := f.Write(chunk[:size])
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2 // down to the last byte
		case err != nil:
			r.t.Fatal(err)
		}
	}
	r.must(f.Close())
	return func() { r.must(os.Remove(path)) }
}

// TestDiskFull fills the disk of a follower and then, with the same node leading, of the leader. Root.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := prepareRig(t, time.Second)
	r.mountTmpfs(r.Path("core-3"), 48<<20)
	r.startCores(3)
	small := r.cores[2]
	l := r.load()
	for _, leads := range []bool{false, true} {
		if leads {
			r.leads(small)
		} else {
			r.follows(small)
		}
		free := r.fill(r.Path(small.Name))
		full := time.Now()
		r.ends(small, 60*time.Second, "no space left on device")
		if out := small.Proc.Output(); !strings.Contains(out, "start the node again") && !strings.Contains(out, "restart the process") { // of the log, or of the history
			t.Errorf("%s does not say what to do: %s", small.Name, small.Proc.Tail())
		}
		ended := time.Now()
		gap, err := l.next(r, ended, small.Name, 15*time.Second)
		r.must(err)
		t.Logf("leading %v: the node ended %.2f s after its disk was full; the next write at another node came %.2f s later", leads, ended.Sub(full).Seconds(), gap.Seconds())
		r.launch(small) // with its disk still full it must not pretend either
		r.ends(small, 60*time.Second, "no space left on device")
		free()
		r.restart(small)
		r.whole(l.acknowledged(), small)
	}
	l.end()
	t.Logf("%d writes acknowledged; attempts that failed: %s", len(l.acknowledged()), l.refusals())
	r.whole(l.acknowledged(), r.cores...)
	for _, c := range r.cores {
		r.verifies(c)
	}
}

// TestDiskFails has every write and every fsync of a node fail from one moment on: of a follower, then of the leader. Root.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	needRoot(t, "mkfs.ext4", "mount", "losetup")
	r := prepareRig(t, time.Second)
	d := r.newDisk(r.Path("core-3"))
	r.startCores(3)
	weak := r.cores[2]
	l := r.load()
	for _, leads := range []bool{false, true} {
		if leads {
			r.leads(weak)
		} else {
			r.follows(weak)
		}
		failed := time.Now()
		r.must(cut(d))
		r.ends(weak, 30*time.Second, "input/output error", "disk")
		if out := weak.Proc.Output(); !strings.Contains(out, "start the node again") && !strings.Contains(out, "restart the process") { // of the log, or of the history: whichever is hit first
			t.Errorf("%s does not say what to do: %s", weak.Name, weak.Proc.Tail())
		}
		ended := time.Now()
		gap, err := l.next(r, ended, weak.Name, 15*time.Second)
		r.must(err)
		t.Logf("leading %v: the node ended %.2f s after its disk failed; the next write at another node came %.2f s later", leads, ended.Sub(failed).Seconds(), gap.Seconds())
		d.replug()
		r.restart(weak)
		r.whole(l.acknowledged(), weak)
	}
	l.end()
	r.whole(l.acknowledged(), r.cores...)
}

// cutsFor is how long the power is cut again and again, unless HOLDFAST_CUTS says how often.
const cutsFor = 60 * time.Second

// cutsAsked is the number of cuts in HOLDFAST_CUTS; 0: it says none.
func cutsAsked(t *testing.T) int {
	t.Helper()
	s := os.Getenv("HOLDFAST_CUTS")
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("HOLDFAST_CUTS=%q is no number of cuts", s)
	}
	return n
}

// TestPowerCut takes the power from all three nodes at once while they are written to, again and again: everything that was
// acknowledged is there afterwards. Root. Not parallel: the more often it cuts in its time, the better.
func TestPowerCut(t *testing.T) {
	needRoot(t, "mkfs.ext4", "mount", "losetup")
	want := cutsAsked(t)
	r := prepareRig(t, time.Second)
	disks := r.threeDisks()
	r.startCores(3)
	var keys []string
	began, cuts := time.Now(), 0
	for ; cuts < want || want == 0 && (cuts == 0 || time.Since(began) < cutsFor); cuts++ {
		l := r.load()
		_, err := l.next(r, time.Now(), "", 20*time.Second)
		r.must(err)
		pause(r.ctx, time.Duration(cuts%7)*37*time.Millisecond) // so that the cuts fall differently
		r.must(cut(disks...))
		for _, c := range r.cores {
			c.Proc.Kill()
		}
		l.end()
		keys = append(keys, l.acknowledged()...)
		for i, d := range disks {
			d.replug()
			r.launch(r.cores[i])
		}
		for i := range r.cores {
			r.must(r.Ready(r.ctx, i+1))
		}
		found := r.written(r.cores[cuts%3])
		if lost := missing(keys, found); len(lost) > 0 {
			t.Fatalf("cut %d: %d of %d acknowledged writes are lost, such as %s", cuts+1, len(lost), len(keys), lost[0])
		}
	}
	t.Logf("%d cuts in %.0f s, %d acknowledged writes, none lost", cuts, time.Since(began).Seconds(), len(keys))
	r.whole(keys, r.cores...)
	for _, c := range r.cores {
		r.verifies(c)
	}
}

func (r *rig) threeDisks() []*disk {
	var disks []*disk
	for i := range 3 {
		disks = append(disks, r.newDisk(r.Path(fmt.Sprintf("core-%d", i+1))))
	}
	return disks
}

// TestPowerCutIsNoticed is the control of TestPowerCut: the same disks, the same cut and the same checker, and three logs,
// once with an fsync before each acknowledgement and once without. What was acknowledged without
// must be found lost, and what was acknowledged with it must not. Root.
func TestPowerCutIsNoticed(t *testing.T) {
	t.Parallel()
	needRoot(t, "mkfs.ext4", "mount", "losetup")
	r := prepareRig(t, time.Second)
	disks := r.threeDisks()
	for _, sync := range []bool{true, false} {
		var files []string
		for _, d := range disks {
			files = append(files, filepath.Join(d.dir, fmt.Sprintf("control-%v.log", sync)))
		}
		keys := r.control(sync, files, disks)
		lost := missing(keys, r.majority(files))
		t.Logf("with fsync %v: %d of %d acknowledged writes were lost", sync, len(lost), len(keys))
		if sync && len(lost) > 0 {
			t.Errorf("%d writes are said to be lost that were synced: the checker or the cut is wrong", len(lost))
		}
		if !sync && len(lost) == 0 {
			t.Error("nothing was lost although nothing was synced: TestPowerCut proves nothing here")
		}
	}
}

// control runs the control program until it has acknowledged some writes, cuts the power and returns what was acknowledged.
func (r *rig) control(sync bool, files []string, disks []*disk) (keys []string) {
	r.t.Helper()
	exe, err := os.Executable()
	r.must(err)
	cmd := exec.CommandContext(r.ctx, exe)
	cmd.Env = append(os.Environ(), controlSync+"="+strconv.FormatBool(sync), controlFiles+"="+strings.Join(files, ":"))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	r.must(err)
	r.must(cmd.Start())
	lines := bufio.NewScanner(out)
	for len(keys) < 200 && lines.Scan() {
		keys = append(keys, lines.Text())
	}
	r.must(cut(disks...))
	r.must(cmd.Process.Kill())
	for lines.Scan() {
		keys = append(keys, lines.Text())
	}
	if err := cmd.Wait(); len(keys) < 200 {
		r.t.Fatalf("the control program acknowledged %d writes: %v", len(keys), err)
	}
	for _, d := range disks {
		d.replug()
	}
	return keys
}

// majority counts the keys that at least two of the logs hold.
func (r *rig) majority(files []string) map[string]int {
	r.t.Helper()
	held := make(map[string]int)
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			r.t.Logf("%v", err) // its name was never synced
			continue
		}
		lines := strings.Split(string(text), "\n")
		for _, key := range lines[:len(lines)-1] { // what no newline ends was torn
			held[key]++
		}
	}
	found := make(map[string]int)
	for k, n := range held {
		if n >= 2 {
			found[k] = 1
		}
	}
	return found
}

// What makes this test's binary the control program: whether to fsync, and where its three logs are.
const (
	controlSync  = "HOLDFAST_TEST_CONTROL_SYNC"
	controlFiles = "HOLDFAST_TEST_CONTROL_FILES"
)

// runControl appends to three logs as a core of three nodes would, and says of each entry on out when all three have it.
func runControl(out io.Writer) error {
	synced, err := strconv.ParseBool(os.Getenv(controlSync))
	if err != nil {
		return err
	}
	var logs []*os.File
	for path := range strings.SplitSeq(os.Getenv(controlFiles), ":") {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if synced {
			if err := syncDir(filepath.Dir(path)); err != nil {
				return err
			}
		}
		logs = append(logs, f)
	}
	for index := uint64(1); ; index++ {
		key := "load-" + strconv.FormatUint(index, 10)
		for _, f := range logs {
			if _, err := fmt.Fprintln(f, key); err != nil {
				return err
			}
			if synced {
				if err := f.Sync(); err != nil {
					return err
				}
			}
		}
		if _, err := fmt.Fprintln(out, key); err != nil {
			return err
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
