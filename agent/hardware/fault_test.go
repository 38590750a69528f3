package hardware

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
)

// faultFS fails chosen paths of a file system the way the operating system does.
type faultFS struct {
	FS
	fail    map[string]syscall.Errno
	reading bool // files fail when they are read, not when they are opened, as sysfs does for EIO
}

func (f faultFS) Open(name string) (io.ReadCloser, error) {
	no, ok := f.fail[path.Clean(name)]
	switch {
	case ok && f.reading && !errors.Is(no, fs.ErrNotExist):
		return failingFile{no}, nil
	case ok:
		return nil, &fs.PathError{Op: "open", Path: "/elsewhere" + name, Err: no}
	}
	return f.FS.Open(name)
}

func (f faultFS) ReadDir(name string, limit int) ([]string, error) {
	if no, ok := f.fail[path.Clean(name)]; ok {
		return nil, &fs.PathError{Op: "open", Path: "/elsewhere" + name, Err: no}
	}
	return f.FS.ReadDir(name, limit)
}

type failingFile struct{ errno syscall.Errno }

func (f failingFile) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: "/elsewhere", Err: f.errno}
}
func (failingFile) Close() error { return nil }

// seen is a fact of any type.
type seen struct {
	state  wire.FactState
	value  any
	reason string
}

func see[T any](f wire.Fact[T]) seen { return seen{f.State, f.Value, f.Reason} }

// facts takes a profile apart, by field name.
func facts(p wire.Profile) map[string]seen {
	return map[string]seen{
		"Model": see(p.Model), "SoC": see(p.SoC), "Arch": see(p.Arch), "RAMBytes": see(p.RAMBytes),
		"CPUCores": see(p.CPUCores), "Accelerators": see(p.Accelerators), "OS": see(p.OS), "Kernel": see(p.Kernel),
	}
}

// A probeCase fails one path of a board and says what becomes of a fact. With EACCES and EIO that is always unknown; with
// ENOENT it is the state given, and the value if that is FactValue.
type probeCase struct {
	fact, board, path string
	gone              []string // paths that do not exist in any case
	enoent            wire.FactState
	value             any // with ENOENT
	partial           any // the value of an unknown fact with EACCES and EIO, nil for the zero value
}

func probeCases() []probeCase {
	const (
		jetson, pi, server, coral, vm = "jetson-xavier-nx", "raspberry-pi-4", "x86-server-nvidia", "coral-dev-board", "microvm"
		pci, usb, platform            = "/sys/bus/pci/devices", "/sys/bus/usb/devices", "/sys/bus/platform/devices"
	)
	none := []string(nil)
	return []probeCase{
		{fact: "Model", board: jetson, path: "/sys/firmware/devicetree/base/model", enoent: wire.FactAbsent, value: ""},
		{fact: "Model", board: pi, path: "/proc/device-tree/model", enoent: wire.FactAbsent, value: ""},
		{fact: "Model", board: server, path: "/sys/class/dmi/id/product_name", enoent: wire.FactValue, value: "Dell Inc. 06WXJT"},
		{fact: "Model", board: server, path: "/sys/class/dmi/id/sys_vendor", enoent: wire.FactValue, value: "PowerEdge R740"},
		{fact: "Model", board: server, path: "/sys/class/dmi/id/board_name", gone: []string{"/sys/class/dmi/id/product_name"}, enoent: wire.FactAbsent, value: ""},
		{fact: "Model", board: vm, path: "/sys/bus", enoent: wire.FactUnknown, value: ""},
		{fact: "SoC", board: coral, path: "/sys/firmware/devicetree/base/compatible", enoent: wire.FactAbsent, value: ""},
		{fact: "SoC", board: pi, path: "/proc/device-tree/compatible", enoent: wire.FactAbsent, value: ""},
		{fact: "SoC", board: vm, path: "/sys/bus", enoent: wire.FactUnknown, value: ""},
		{fact: "Arch", board: vm, path: "/proc/sys/kernel/arch", enoent: wire.FactUnknown, value: ""},
		{fact: "RAMBytes", board: pi, path: "/proc/meminfo", enoent: wire.FactUnknown, value: uint64(0)},
		{fact: "CPUCores", board: jetson, path: "/sys/devices/system/cpu/online", enoent: wire.FactValue, value: uint32(6)},
		{fact: "CPUCores", board: jetson, path: "/proc/cpuinfo", gone: []string{"/sys/devices/system/cpu/online"}, enoent: wire.FactUnknown, value: uint32(0)},
		{fact: "OS", board: pi, path: "/etc/os-release", enoent: wire.FactAbsent, value: ""},
		{fact: "OS", board: vm, path: "/usr/lib/os-release", enoent: wire.FactAbsent, value: ""},
		{fact: "Kernel", board: pi, path: "/proc/sys/kernel/osrelease", enoent: wire.FactUnknown, value: ""},
		{fact: "Accelerators", board: server, path: pci, enoent: wire.FactAbsent, value: none},
		{fact: "Accelerators", board: server, path: pci + "/0000:3b:00.0/vendor", enoent: wire.FactAbsent, value: none},
		{fact: "Accelerators", board: server, path: pci + "/0000:3b:00.0/class", enoent: wire.FactAbsent, value: none},
		{fact: "Accelerators", board: coral, path: pci + "/0001:01:00.0/device", enoent: wire.FactAbsent, value: none},
		{fact: "Accelerators", board: server, path: usb, enoent: wire.FactValue, value: []string{nvidiaGPU}, partial: []string{nvidiaGPU}},
		{fact: "Accelerators", board: pi, path: usb, enoent: wire.FactAbsent, value: none},
		{fact: "Accelerators", board: pi, path: usb + "/2-1/idVendor", enoent: wire.FactAbsent, value: none},
		{fact: "Accelerators", board: pi, path: usb + "/2-1/idProduct", enoent: wire.FactAbsent, value: none},
		{fact: "Accelerators", board: pi, path: usb + "/1-1/idVendor", enoent: wire.FactValue, value: []string{edgeTPU}, partial: []string{edgeTPU}},
		{fact: "Accelerators", board: jetson, path: platform, enoent: wire.FactAbsent, value: none},
		{fact: "Accelerators", board: jetson, path: platform + "/17000000.gv11b/uevent", enoent: wire.FactAbsent, value: none},
		{fact: "Accelerators", board: vm, path: "/sys/bus", enoent: wire.FactUnknown, value: none},
	}
}

func TestProbeFailures(t *testing.T) {
	for _, c := range probeCases() {
		dir := Dir(plant(t, c.board))
		for _, no := range []syscall.Errno{syscall.ENOENT, syscall.EACCES, syscall.EIO} {
			for _, reading := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s%s/%d/reading=%t", c.fact, c.board, c.path, no, reading), func(t *testing.T) {
					fail := map[string]syscall.Errno{c.path: no}
					for _, g := range c.gone {
						fail[g] = syscall.ENOENT
					}
					got := facts(Detect(Source{FS: faultFS{dir, fail, reading}}))[c.fact]
					c.check(t, got, no)
				})
			}
		}
	}
}

// check compares what became of the fact with what the case says about no.
func (c probeCase) check(t *testing.T, got seen, no syscall.Errno) {
	t.Helper()
	state, value := wire.FactUnknown, c.partial
	if no == syscall.ENOENT {
		state, value = c.enoent, c.value
	}
	if value == nil {
		value = reflect.Zero(reflect.TypeOf(got.value)).Interface()
	}
	if got.state != state || !reflect.DeepEqual(got.value, value) {
		t.Errorf("fact is %+v, want state %d and value %v", got, state, value)
	}
	if state != wire.FactUnknown {
		if got.reason != "" {
			t.Errorf("a fact that is not unknown has the reason %q", got.reason)
		}
		return
	}
	named := c.path
	if no == syscall.ENOENT && len(c.gone) > 0 {
		named = c.gone[0] // of several missing sources the first is named
	}
	if !strings.Contains(got.reason, named) || !strings.Contains(got.reason, no.Error()) || strings.Contains(got.reason, "elsewhere") {
		t.Errorf("reason %q, want the path %s and %q in it, and no path of the host", got.reason, named, no)
	}
}

// TestNoFailureLooksLikeAbsence fails every file and directory of every tree in turn. A fact that one of them matters to
// is then unknown and says why, or has what was true without the failure; it is never absent or another value.
func TestNoFailureLooksLikeAbsence(t *testing.T) {
	for _, b := range boards() {
		root := plant(t, b.name)
		want := facts(b.want)
		for _, name := range everyPath(t, root) {
			for _, no := range []syscall.Errno{syscall.EACCES, syscall.EIO} {
				src := Source{FS: faultFS{Dir(root), map[string]syscall.Errno{name: no}, no == syscall.EIO}, Machine: b.machine}
				for fact, got := range facts(Detect(src)) {
					explained := got.state == wire.FactUnknown && strings.Contains(got.reason, name) && strings.Contains(got.reason, no.Error())
					if !explained && !reflect.DeepEqual(got, want[fact]) {
						t.Errorf("%s: %v on %s makes %s %+v", b.name, no, name, fact, got)
					}
				}
			}
		}
	}
}

// everyPath lists the files and directories below root as absolute names.
func everyPath(t *testing.T, root string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if rel, relErr := filepath.Rel(root, p); relErr == nil && rel != "." {
			names = append(names, "/"+filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestSeveralFailuresAreCounted(t *testing.T) {
	dir := Dir(plant(t, "raspberry-pi-4"))
	const first = "/sys/bus/pci/devices/0000:00:00.0/vendor"
	fail := map[string]syscall.Errno{
		first:                                  syscall.EIO,
		"/sys/bus/usb/devices/1-1/idVendor":    syscall.EACCES,
		"/sys/bus/platform/devices/gpu/uevent": syscall.EIO,
	}
	got := Detect(Source{FS: faultFS{dir, fail, true}}).Accelerators
	if got.State != wire.FactUnknown || !slices.Equal(got.Value, []string{edgeTPU}) {
		t.Errorf("accelerators %+v, want unknown with what the other devices gave", got)
	}
	if !strings.Contains(got.Reason, first) || !strings.HasSuffix(got.Reason, " (and 2 more)") || len(got.Reason) > wire.MaxReason {
		t.Errorf("reason %q, want the first failure and the number of others within %d bytes", got.Reason, wire.MaxReason)
	}
}

// TestUnpluggedDeviceIsAbsent has a device go away between the listing of its bus and the read of its id.
func TestUnpluggedDeviceIsAbsent(t *testing.T) {
	dir := Dir(plant(t, "raspberry-pi-4"))
	fail := map[string]syscall.Errno{"/sys/bus/usb/devices/2-1/idProduct": syscall.ENODEV}
	if got := Detect(Source{FS: faultFS{dir, fail, true}}).Accelerators; got.State != wire.FactAbsent {
		t.Errorf("accelerators %+v, want absent", got)
	}
}

// TestArchOutlivesItsFile checks that the machine name handed in counts when the kernel's file fails, and that the
// program's own architecture does not make up for a file that exists.
func TestArchOutlivesItsFile(t *testing.T) {
	dir := Dir(plant(t, "microvm"))
	denied := faultFS{dir, map[string]syscall.Errno{"/proc/sys/kernel/arch": syscall.EACCES}, false}
	if got := Detect(Source{FS: denied, Machine: "x86_64"}).Arch; got != wire.Known("amd64") {
		t.Errorf("arch with uname %+v, want amd64", got)
	}
	if got := Detect(Source{FS: denied, GOARCH: "386"}).Arch; got.State != wire.FactUnknown {
		t.Errorf("arch without uname %+v, want unknown", got)
	}
}

func TestReasonsAreBounded(t *testing.T) {
	long := "/sys/bus/pci/devices/" + strings.Repeat("ä", 300)
	f := findings{}
	for range 1000 {
		f.note(pathError(long, syscall.EIO))
	}
	if got := f.reason(); len(got) > wire.MaxReason || !strings.HasSuffix(got, "(and 999 more)") || strings.Contains(got, "\uFFFD") {
		t.Errorf("reason of %d bytes: %q", len(got), got)
	}
	for _, path := range []string{long, "/x" + long, "/\x1b" + long} { // cut between characters wherever they lie
		if got := unknown[string](pathError(path, syscall.EIO)).Reason; len(got) > wire.MaxReason || !strings.HasSuffix(got, "ä") || strings.Contains(got, "\x1b") {
			t.Errorf("reason of %d bytes: %q", len(got), got)
		}
	}
}

// hugeFS has directories without end and files without end.
type hugeFS struct{ read *int }

func (h hugeFS) Open(string) (io.ReadCloser, error) { return io.NopCloser(endless(h)), nil }

func (h hugeFS) ReadDir(_ string, limit int) ([]string, error) {
	names := make([]string, limit)
	for i := range names {
		names[i] = fmt.Sprint("device", i)
	}
	return names, nil
}

// endless is an unbroken line without end.
type endless struct{ read *int }

func (e endless) Read(p []byte) (int, error) {
	clear(p)
	*e.read += len(p)
	return len(p), nil
}

func TestEverythingIsBounded(t *testing.T) {
	var read int
	src := Source{FS: hugeFS{&read}}
	p := Detect(src)
	for name, f := range facts(p) {
		if f.state != wire.FactUnknown || !strings.Contains(f.reason, errTooLarge.Error()) {
			t.Errorf("%s of endless files is %+v, want unknown: too large", name, f)
		}
	}
	// A page and a little for the first attribute of each PCI device, USB device and interface, and few other files.
	if limit := 3*maxEntries*2*maxAttribute + maxCPUInfo; read > limit {
		t.Errorf("read %d bytes, want at most %d", read, limit)
	}
}

func TestDirectoriesAreBoundedAndSorted(t *testing.T) {
	names, err := tree{hugeFS{}}.list("/sys/bus/usb/devices")
	if !errors.Is(err, errTooLarge) || len(names) != maxEntries || !slices.IsSorted(names) {
		t.Errorf("%d names, error %v; want %d sorted and errTooLarge", len(names), err, maxEntries)
	}
	empty := t.TempDir()
	if names, err := (tree{Dir(empty)}).list("/"); err != nil || len(names) != 0 {
		t.Errorf("an empty directory has %d names, error %v", len(names), err)
	}
}

// linesFS has one file, without end, of processor entries.
type linesFS struct{ hugeFS }

func (linesFS) Open(string) (io.ReadCloser, error) { return io.NopCloser(processors{}), nil }

type processors struct{}

func (processors) Read(p []byte) (int, error) { return copy(p, "processor : 1\n"), nil }

func TestEndlessCPUInfoIsTooLarge(t *testing.T) {
	if n, err := (tree{linesFS{}}).listedCPUs(); !errors.Is(err, errTooLarge) {
		t.Errorf("%d processors, error %v; want errTooLarge", n, err)
	}
}

// TestOtherDevicesAreNotAsked checks that an id that cannot matter is not read: its failure changes nothing.
func TestOtherDevicesAreNotAsked(t *testing.T) {
	dir := Dir(plant(t, "x86-server-nvidia"))
	fail := map[string]syscall.Errno{
		"/sys/bus/pci/devices/0000:18:00.0/class":     syscall.EIO, // a network card
		"/sys/bus/platform/devices/pcspkr/uevent":     syscall.EIO,
		"/sys/bus/usb/devices/usb1/bDeviceClass":      syscall.EIO,
		"/sys/bus/pci/devices/0000:3b:00.0/subdevice": syscall.EIO,
	}
	got := Detect(Source{FS: faultFS{dir, fail, true}}).Accelerators
	if want := wire.Known([]string{nvidiaGPU}); !reflect.DeepEqual(got, want) {
		t.Errorf("accelerators %+v, want %+v", got, want)
	}
}

func TestHintsLeaveOutWhatFails(t *testing.T) {
	dir := Dir(plant(t, "x86-server-nvidia"))
	fail := map[string]syscall.Errno{
		"/sys/class/dmi/id/product_serial": syscall.EACCES, // what an agent that is not root sees
		"/etc/machine-id":                  syscall.EIO,
		"/sys/class/net/eno1/address":      syscall.EIO,
	}
	got := Detect(Source{FS: faultFS{dir, fail, true}}).Hints
	if want := (wire.Hints{MACs: []string{"e4:43:4b:01:02:04"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("hints %+v, want %+v", got, want)
	}
}
