package hardware

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/holdfast-edge/holdfast/wire"
)

// Detect returns the profile of the machine behind src. It never fails: what could not be found out is unknown in the
// profile, with the reason. The package comment has the rules. Detect is safe for concurrent use if src.FS is.
func Detect(src Source) wire.Profile {
	t := tree{fs: src.FS}
	if t.fs == nil {
		t.fs = Dir(src.Root)
	}
	looked := t.sysfs()
	return wire.Profile{
		Model:        optional(looked, t.treeModel, t.systemModel, t.boardModel),
		SoC:          optional(looked, t.soc),
		Arch:         arch(t, src.Machine, src.GOARCH),
		RAMBytes:     required(t.memTotal),
		CPUCores:     required(t.onlineCPUs, t.listedCPUs),
		Accelerators: accelerators(t, looked),
		OS:           optional(nil, t.osName),
		Kernel:       required(t.kernel),
		Hints:        hints(t),
	}
}

func (t tree) kernel() (string, error) { return t.text("/proc/sys/kernel/osrelease") }

func (t tree) memTotal() (uint64, error) {
	const path = "/proc/meminfo"
	data, err := t.read(path, maxFile)
	if err != nil {
		return 0, err
	}
	n, err := parseMemTotal(data)
	if err != nil {
		return 0, pathError(path, err)
	}
	return n, nil
}

func (t tree) onlineCPUs() (uint32, error) {
	const path = "/sys/devices/system/cpu/online"
	data, err := t.read(path, maxAttribute)
	if err != nil {
		return 0, err
	}
	n, err := parseCPUList(string(data))
	if err != nil {
		return 0, pathError(path, err)
	}
	return n, nil
}

// maxCPUInfo bounds what is read of /proc/cpuinfo, in bytes: 4,096 processors of 2 KiB each. It passes through a small
// buffer and is not held.
const maxCPUInfo = 8 << 20

// listedCPUs counts the processors in /proc/cpuinfo, which lists those that are online.
func (t tree) listedCPUs() (uint32, error) {
	const path = "/proc/cpuinfo"
	f, err := t.fs.Open(path)
	if err != nil {
		return 0, pathError(path, err)
	}
	body := &io.LimitedReader{R: f, N: maxCPUInfo}
	n, err := countProcessors(body)
	err = errors.Join(err, f.Close())
	switch {
	case err != nil:
		return 0, pathError(path, err)
	case body.N == 0:
		return 0, pathError(path, errTooLarge)
	case n == 0:
		return 0, pathError(path, fmt.Errorf("%w: no processor entry", errMalformed))
	}
	return n, nil
}

// countProcessors counts the lines whose key is "processor". Old 32-bit ARM kernels also have one "Processor" line that
// describes all of them, so case matters; s390 numbers them within the key ("processor 0: …").
func countProcessors(r io.Reader) (uint32, error) {
	var n uint32
	inside := false // line goes on with one that is longer than the buffer
	br := bufio.NewReader(r)
	for {
		line, more, err := br.ReadLine()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		if rest, ok := strings.CutPrefix(string(line), "processor"); ok && !inside && strings.IndexAny(rest, " \t:") == 0 {
			n++
		}
		inside = more
	}
}

// osName is how the distribution calls itself. os-release(5) has /usr/lib/os-release count only where /etc/os-release
// does not exist.
func (t tree) osName() (string, error) {
	const path = "/etc/os-release"
	data, err := t.readFirst(maxFile, path, "/usr/lib/os-release")
	if err != nil {
		return "", err
	}
	if name := prettyName(data); name != "" {
		return name, nil
	}
	return "", pathError(path, errNothing)
}
